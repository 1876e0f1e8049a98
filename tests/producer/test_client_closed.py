"""A client that is closed, interrupted or left alone ends at once and without noise, and so do its waiting calls."""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from rollstream import AsyncClient, BlockingBatchHandle, Client, ClientClosedError, ClientMisusedError
from rollstream.producer.calls import patience
from tests.support.batches import CONFIG
from tests.support.faults import Link, Queue
from tests.support.worker_process import ROOT, until, wait_for

AT_ONCE_S = 20.0
"""On a busy machine; what is not ended by closing waits for a minute or for ever here."""

pytestmark = pytest.mark.usefixtures("long_reads")


def waiting_threads() -> int:
    """Threads that wait for the outcome of a call."""
    frames = sys._current_frames().values()
    return sum(_is_waiting(frame) for frame in frames)


def _is_waiting(frame: Any) -> bool:
    names = []
    while frame is not None:
        names.append((frame.f_code.co_filename.rpartition("/")[2], frame.f_code.co_name))
        frame = frame.f_back
    return ("loop_thread.py", "run") in names


WAITING: dict[str, Callable[[Client, BlockingBatchHandle], object]] = {
    "result": lambda _, handle: handle.result(),
    "result with a timeout": lambda _, handle: handle.result(timeout=60),
    "groups": lambda _, handle: next(handle.groups()),
    "wait_for_version": lambda client, _: client.wait_for_version(9),
}


@pytest.mark.parametrize("call", WAITING)
def test_closing_ends_what_other_threads_wait_for(redis_url: str, policy: str, call: str) -> None:
    client = Client(redis_url, policy=policy)
    handle = client.submit([[1]], None, CONFIG)
    with ThreadPoolExecutor(1) as others:
        waiting = others.submit(WAITING[call], client, handle)
        wait_for(lambda: waiting_threads() == 1, 30, lambda: "nobody waits")
        began = time.monotonic()
        client.close()
        with pytest.raises(ClientClosedError, match="closed"):
            waiting.result(AT_ONCE_S)
    assert time.monotonic() - began < AT_ONCE_S


def test_closing_does_not_wait_for_a_redis_that_hears_nothing(link: Link, policy: str) -> None:
    client = Client(link.url, policy=policy)
    handle = client.submit([[1]], None, CONFIG)
    with ThreadPoolExecutor(2) as others:
        waiting: list[Future[Any]] = [others.submit(handle.result), others.submit(handle.done)]
        link.freeze()
        waiting.append(others.submit(handle.cancel))
        wait_for(lambda: waiting_threads() >= 2, 30, lambda: "nobody waits")
        began = time.monotonic()
        client.close()
        assert time.monotonic() - began < AT_ONCE_S
        for one in (waiting[0], waiting[2]):
            with pytest.raises(ClientClosedError):
                one.result(AT_ONCE_S)
    link.thaw()


def test_several_threads_may_close_a_client_and_no_call_begins_after_it(redis_url: str, policy: str) -> None:
    client = Client(redis_url, policy=policy)
    handle, groups = client.submit([[1], [2]], None, CONFIG), None
    handle.cancel()
    groups = handle.groups()
    next(groups)
    with ThreadPoolExecutor(4) as others:
        for closing in [others.submit(client.close) for _ in range(4)]:
            closing.result(AT_ONCE_S)
    client.close()
    groups.close()  # type: ignore[attr-defined] # a generator, left half-read
    for use in (handle.result, handle.done, handle.cancel, lambda: client.attach("b"), lambda: list(handle.groups())):
        with pytest.raises(ClientClosedError):
            use()


async def test_closing_an_async_client_ends_what_other_tasks_wait_for(redis_url: str, policy: str) -> None:
    client = AsyncClient(redis_url, policy=policy)
    handle = await client.submit([[1]], None, CONFIG)
    waiting = [asyncio.create_task(handle.result()), asyncio.create_task(handle.wait(60))]
    with Queue(redis_url, policy) as queue:
        await until(lambda: asyncio.to_thread(lambda: queue.redis.info("clients")["blocked_clients"] >= 1))
    async with asyncio.timeout(AT_ONCE_S):
        await client.aclose()
        ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(one) for one in ended] == [ClientClosedError] * 2


@contextmanager
def in_a_moment(act: Callable[[], object]) -> Iterator[None]:
    """`act` runs in a handler of this thread, in the midst of what it waits for."""
    before = signal.signal(signal.SIGALRM, lambda *_: act())
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_signals_handler_may_use_and_close_the_client_that_its_thread_waits_for(client: Client) -> None:
    seen: list[int] = []
    handle, other = client.submit([[1]], None, CONFIG), client.submit([[1]], None, CONFIG)
    with in_a_moment(lambda: seen.append(handle.cancel())):
        assert list(handle.wait(timeout=20)) == [0]
    assert seen == [1]
    with in_a_moment(client.close), pytest.raises(ClientClosedError):
        other.wait(timeout=20)


def test_ctrl_c_leaves_a_client_that_goes_on(client: Client, queue: Queue) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    handle = client.submit([[1]], None, CONFIG)
    with in_a_moment(interrupt), pytest.raises(KeyboardInterrupt):
        handle.wait()
    wait_for(
        lambda: queue.redis.info("clients")["blocked_clients"] == 0, 30, lambda: "what was interrupted goes on reading"
    )
    assert handle.cancel() == 1
    assert list(handle.wait(timeout=20)) == [0]


def test_a_handle_keeps_working_when_nobody_holds_its_client(redis_url: str, policy: str) -> None:
    handle = Client(redis_url, policy=policy).submit([[1]], None, CONFIG)
    assert handle.cancel() == 1
    threads = [thread for thread in threading.enumerate() if thread.name == "rollstream-client"]
    del handle
    wait_for(lambda: any(not thread.is_alive() for thread in threads), 30, lambda: "a client nobody holds has a thread")


def test_its_own_thread_may_close_a_client_but_not_wait_for_it(
    redis_url: str, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "FIRST_S", 0.1)
    client, seen = Client(redis_url, policy=policy), []
    handle = client.submit([[1]], None, CONFIG)

    class Closing(logging.Handler):
        """A program's handler of warnings, which are made in the client's own thread."""

        def emit(self, record: logging.LogRecord) -> None:
            with pytest.raises(ClientMisusedError, match="own background thread"):
                handle.done()
            seen.append(record.name)
            client.close()

    handler = Closing()
    patience.log.addHandler(handler)
    try:
        with pytest.raises(ClientClosedError):
            handle.wait()
    finally:
        patience.log.removeHandler(handler)
    assert seen == ["rollstream"]


LEFT_OPEN = """
import asyncio, sys, threading, time
from rollstream import AsyncClient, Client, GenerationConfig
url, policy = sys.argv[1:]
config = GenerationConfig(max_new_tokens=4)
client = Client(url, policy=policy)
handle = client.submit([[1], [2]], None, config)
groups = client.submit([[1]], None, config).groups()
thread = threading.Thread(target=handle.result, daemon=True)
thread.start()

async def left_open():
    global kept, kept_groups
    kept = AsyncClient(url, policy=policy)
    batch = await kept.submit([[1]], None, config)
    kept_groups = batch.groups()
    try:
        async with asyncio.timeout(0.1):
            await anext(kept_groups)
    except TimeoutError:
        pass
    waiting = asyncio.create_task(batch.result())
    await asyncio.sleep(0.1)
    raise LookupError("of the trainer")

try:
    asyncio.run(left_open())
except LookupError:
    print("done")
"""


def test_unclosed_clients_make_no_noise_at_exit(redis_url: str, policy: str) -> None:
    command = [sys.executable, "-W", "always::ResourceWarning", "-c", LEFT_OPEN, redis_url, policy]
    began = time.monotonic()
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "done\n", ""), ended.stderr
    assert time.monotonic() - began < 40
