"""A client is used in one event loop of one process. Elsewhere it says so at once, and harms nothing."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rollstream import AsyncClient, Client, ClientClosedError, ClientMisusedError
from tests.support.batches import CONFIG
from tests.support.worker_process import ROOT

AT_ONCE_S = 20.0
"""On a busy machine; what waits for the end of a read waits for a minute here."""

pytestmark = pytest.mark.usefixtures("long_reads")

FORKED = """
import asyncio, gc, json, os, sys, threading, time
from rollstream import Client, GenerationConfig, RollstreamError
from rollstream.producer.redis_io import connection
from rollstream.transport.redis import client_settings
url, policy = sys.argv[1:]
connection.BLOCK_MS = client_settings.BLOCK_MS = 60_000
config = GenerationConfig(max_new_tokens=4)

def told(call):
    try:
        call()
    except RollstreamError as error:
        return f"{type(error).__name__}: {error}"

with Client(url, policy=policy) as client:
    handle = client.submit([[1]], None, config)
    waiting = threading.Thread(target=handle.wait)
    waiting.start()
    while client.submit([[1]], None, config, batch_id="b").done():
        pass
    time.sleep(0.2)
    reader, writer = os.pipe()
    if os.fork() == 0:
        began = time.monotonic()
        calls = [handle.done, handle.wait, handle.cancel, lambda: client.attach("b"), lambda: list(handle.groups()),
                 lambda: client.submit([[1]], None, config), lambda: client.wait_for_version(1)]
        found = [told(call) for call in calls]
        with Client(url, policy=policy) as own:
            attached = own.attach("b").done()
        client.close()
        os.write(writer, json.dumps([found, attached, time.monotonic() - began]).encode())
        async def free():
            globals().update(client=None, handle=None, calls=None, own=None, waiting=None)
            gc.collect()
        asyncio.run(free())
        sys.exit(0)  # in order: whatever the fork can free is freed
    os.wait()
    began = time.monotonic()
    handle.cancel()
    waiting.join()
    told = json.loads(os.read(reader, 100_000))
    print(json.dumps({"told": told, "parent_s": time.monotonic() - began}))
"""


def test_a_fork_is_told_to_make_its_own_client_and_takes_nothing_from_its_parent(redis_url: str, policy: str) -> None:
    # Python 3.12 and later warn of every fork beside threads, which is what is tested.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKED, redis_url, policy]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stderr
    found = json.loads(ended.stdout)
    told, attached, seconds = found["told"]
    assert len(told) == 7
    for one in told:
        assert one.startswith("ClientMisusedError: cannot ")
        assert "is a fork" in one
        assert "make a client in each process" in one
    assert (attached, seconds < AT_ONCE_S) == (0, True)
    assert found["parent_s"] < AT_ONCE_S, "what the parent waited for came late"


async def test_a_fork_of_a_running_event_loop_is_told_too(trainer: AsyncClient) -> None:
    handle = await trainer.submit([[1]], None, CONFIG)
    child = os.fork()
    if child == 0:

        async def told() -> int:
            try:
                await handle.done()
            except ClientMisusedError:
                await trainer.aclose()
                return 7
            return 1

        try:
            os._exit(asyncio.run(told()))
        finally:
            os._exit(2)
    _, status = await asyncio.to_thread(os.waitpid, child, 0)
    assert os.waitstatus_to_exitcode(status) == 7
    assert await handle.cancel() == 1


USES: dict[str, Callable[[AsyncClient, Any], Any]] = {
    "submit": lambda client, _: client.submit([[1]], None, CONFIG),
    "attach": lambda client, handle: client.attach(handle.batch_id),
    "publish_policy": lambda client, _: client.publish_policy(1, checkpoint="/nowhere"),
    "wait_for_version": lambda client, _: client.wait_for_version(0, 1, 1),
    "result": lambda _, handle: handle.result(timeout=1),
    "groups": lambda _, handle: anext(handle.groups()),
    "finished": lambda _, handle: handle.finished(),
    "done": lambda _, handle: handle.done(),
    "cancel": lambda _, handle: handle.cancel(),
}


@pytest.mark.parametrize("use", USES)
def test_another_event_loop_is_told_so_at_once(redis_url: str, policy: str, use: str) -> None:
    client = AsyncClient(redis_url, policy=policy)
    handle = asyncio.run(client.submit([[1]], None, CONFIG))

    async def again() -> None:
        async with asyncio.timeout(AT_ONCE_S):
            with pytest.raises(ClientMisusedError, match=r"another event loop, .* make an AsyncClient in each"):
                await USES[use](client, handle)
            await client.aclose()

    asyncio.run(again())
    with pytest.raises(ClientClosedError):
        asyncio.run(client.attach("b"))


def test_a_loop_that_runs_in_another_thread_keeps_its_client(redis_url: str, policy: str) -> None:
    client, ready, end = AsyncClient(redis_url, policy=policy), threading.Event(), threading.Event()

    async def keep() -> int:
        handle = await client.submit([[1]], None, CONFIG)
        ready.set()
        await asyncio.to_thread(end.wait)
        return await handle.cancel()

    with ThreadPoolExecutor(1) as others:
        kept = others.submit(asyncio.run, keep())
        assert ready.wait(20)
        for use in (client.attach("b"), client.aclose()):
            with pytest.raises(ClientMisusedError):
                asyncio.run(use)
        end.set()
        assert kept.result(20) == 1


def test_a_client_of_one_thread_may_be_used_by_many(client: Client) -> None:
    with ThreadPoolExecutor(8) as others:
        handles = list(others.map(lambda n: client.submit([[n]], None, CONFIG), range(1, 33)))
        waiting = [others.submit(handle.wait, 30) for handle in handles]
        began = time.monotonic()
        assert [handle.cancel() for handle in handles] == [1] * 32
        assert [len(one.result(30)) for one in waiting] == [1] * 32
        assert time.monotonic() - began < 20
