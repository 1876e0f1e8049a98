"""Linked processes: what the first gives the others get, and no death leaves anybody waiting."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from rollstream.transport.rounds import links, nccl_library
from rollstream.transport.rounds.errors import LinkError
from rollstream.transport.rounds.links import Link
from rollstream.transport.rounds.meeting import Meeting, meet
from rollstream.transport.rounds.packing import chunks
from rollstream.transport.rounds.shared_buffer import BUFFER_BYTES
from tests.support.worker_process import wait_for

TIMEOUT_S = 20.0
LARGE = BUFFER_BYTES // 4 + 3
"""float32 numbers that do not fit shared memory at once."""


def meeting_by(backend: str) -> Meeting:
    return Meeting(backend=backend, host="127.0.0.1", timeout_s=TIMEOUT_S, device=None)


@pytest.fixture(params=["gloo", "ipc"])
def meeting(request: pytest.FixtureRequest) -> Meeting:
    return meeting_by(request.param)


def met(backend: str, place: bytes, rank: int, world_size: int, given_up: threading.Event | None = None) -> Link:
    never = threading.Event()
    return meet(
        backend,
        place,
        rank=rank,
        world_size=world_size,
        timeout_s=TIMEOUT_S,
        device=None,
        given_up=given_up or never,
    )


def member(meeting: Meeting, rank: int, world_size: int, given_up: threading.Event | None = None) -> Link:
    return met(meeting._backend, meeting.place, rank, world_size, given_up)


def beside(call: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


def test_what_the_first_gives_all_others_get(meeting: Meeting) -> None:
    got = {}

    def receive(rank: int) -> None:
        link = member(meeting, rank, 3)
        got[rank] = [torch.zeros(2, 3, dtype=torch.bfloat16), torch.zeros(5), torch.zeros(LARGE)]
        for tensor in got[rank]:
            link.broadcast(tensor)

    threads = [beside(partial(receive, rank)) for rank in (1, 2)]
    sent = [torch.randn(2, 3).bfloat16(), torch.randn(5), torch.arange(float(LARGE))]
    link = meeting.link(3)
    for tensor in sent:
        link.broadcast(tensor)
    for thread in threads:
        thread.join(TIMEOUT_S)

    assert all(torch.equal(a, b) for rank in (1, 2) for a, b in zip(got[rank], sent, strict=True))


def test_a_trainer_is_met_at_an_address_of_ipv6() -> None:
    meeting = Meeting(backend="gloo", host="::1", timeout_s=TIMEOUT_S, device=None)
    got = torch.zeros(3)
    thread = beside(lambda: member(meeting, 1, 2).broadcast(got))
    meeting.link(2).broadcast(torch.ones(3))
    thread.join(TIMEOUT_S)

    assert torch.equal(got, torch.ones(3))


def _die_linked(meeting: Meeting) -> None:
    link = member(meeting, 1, 2)
    link.broadcast(torch.zeros(4))
    os._exit(9)


def test_the_death_of_a_party_is_an_error_of_the_others(meeting: Meeting) -> None:
    other = multiprocessing.get_context("fork").Process(target=_die_linked, args=(meeting,))
    other.start()
    link = meeting.link(2)
    link.broadcast(torch.ones(4))
    other.join(TIMEOUT_S)

    def go_on() -> None:
        for _ in range(100):  # what a dead party's socket still takes is no proof that it lives
            link.broadcast(torch.ones(1_000_000))

    with pytest.raises(LinkError, match="gloo: "):
        go_on()


def test_an_aborted_link_takes_nothing_more(meeting: Meeting) -> None:
    thread = beside(lambda: member(meeting, 1, 2))
    link = meeting.link(2)
    link.abort()

    with pytest.raises(LinkError, match="broken off"):
        link.broadcast(torch.ones(4))
    thread.join(TIMEOUT_S)


def outcome_of(call: Callable[[], Any]) -> tuple[threading.Thread, list[str]]:
    """A call in a thread, and what it ended with."""
    ended: list[str] = []

    def run() -> None:
        try:
            call()
        except LinkError as error:
            ended.append(str(error))

    return beside(run), ended


@pytest.mark.parametrize("backend", ["gloo", "ipc", "nccl"])
def test_who_waits_for_a_party_that_never_comes_goes_on_once_it_is_given_up(
    monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    """With NCCL before it is called: nothing ends its own wait for a party that never comes."""
    monkeypatch.setattr(nccl_library, "new_id", lambda: bytes(nccl_library.ID_BYTES))
    meeting, given_up = meeting_by(backend), threading.Event()
    waiting = [outcome_of(lambda: meeting.link(3)), outcome_of(lambda: member(meeting, 1, 3, given_up))]
    store: Any = meeting._store
    wait_for(lambda: store.check(["came/0", "came/1"]), TIMEOUT_S, lambda: "they never waited")

    meeting.give_up()
    given_up.set()

    for thread, ended in waiting:
        thread.join(5)
        assert ended == ["the round was broken off"]


def test_who_waits_for_a_party_that_stands_still_goes_on_once_the_link_is_aborted(meeting: Meeting) -> None:
    """Its connections stay, so nothing else tells that it is dead."""
    still: list[Link] = []
    thread = beside(lambda: still.append(member(meeting, 1, 2)))
    link = meeting.link(2)
    thread.join(TIMEOUT_S)

    def send() -> None:
        for _ in range(10):
            link.broadcast(torch.ones(LARGE))

    waiting, ended = outcome_of(send)

    waiting.join(0.5)
    assert waiting.is_alive()
    link.abort()
    waiting.join(5)

    assert ended == ["the round was broken off"]
    began = time.monotonic()
    link.close()
    assert time.monotonic() - began < 5


def test_a_link_waits_longer_for_what_is_sent_than_its_making_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "_CONNECT_S", 0.5)
    meeting = Meeting(backend="gloo", host="127.0.0.1", timeout_s=TIMEOUT_S, device=None)
    got = torch.zeros(3)
    thread = beside(lambda: member(meeting, 1, 2).broadcast(got))
    link = meeting.link(2)

    thread.join(1.5)
    link.broadcast(torch.ones(3))
    thread.join(TIMEOUT_S)

    assert torch.equal(got, torch.ones(3))


@pytest.mark.parametrize("place", [b"", b"here", b"host:", b"host:0", b"host:99999", b"\xff:1", b":7"])
def test_a_place_that_is_none_is_refused(place: bytes) -> None:
    with pytest.raises(LinkError):
        met("gloo", place, rank=1, world_size=2)


def test_chunks_are_cut_where_vllm_cuts_them() -> None:
    """After the tensor that makes a chunk larger than the limit, so that none is ever split."""
    tensors = [torch.full((size,), float(size)) for size in (2, 3, 30, 1, 1)]

    cut = list(chunks(tensors, most=20))

    assert [len(chunk) for chunk in cut] == [8 + 12 + 120, 4 + 4]
    assert torch.equal(torch.cat(cut).view(torch.float32), torch.cat(tensors))
