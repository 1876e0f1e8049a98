"""Kill -9 of a worker, a trainer and Redis in every phase: no unproven token leaves, and all serve the newest version.

Most of it is marked `large`: `make test-large ARGS="tests/faults/kills"` runs the whole matrix in some minutes.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.kills.arena import WAIT_S, Arena
from tests.support.processes.halts import Halt

pytestmark = pytest.mark.timeout(400)

STORE = ("read", "fetch", "stage", "load", "prove", "proven")
ROUND = ("join", "joined", "link", "met", "linked", "receiving", "received", "prove", "proven", "files")
WORKER = [
    *(("store", phase) for phase in STORE),
    *(("when_prepared", phase) for phase in ("stage", "activate", "activated", "load", "prove")),
    *(("gloo", phase) for phase in ROUND),
]
TRAINER = [
    *(("store", phase) for phase in ("upload", "announce", "announced")),
    *(("by_hand", phase) for phase in ("announced", "trainer activates", "trainer activated")),
    *(("gloo", phase) for phase in ("open", "announce", "gather", "plan", "send", "sending", "over")),
]
SOON_S = 30.0
"""Far more than it takes to know that a party is dead, far less than a round may take."""
UNANNOUNCED = ("upload", "announce", "open")
"""Phases of a trainer after which nobody has heard of its version."""
INACTIVE = ("announced", "trainer activates")
"""Those after which a version that is activated by hand is not active."""
QUICK = {("worker", "store", "prove"), ("worker", "gloo", "receiving"), ("redis", "store", "load")}
"""Those that `make test` has too."""


def cases(party: str, phases: Iterable[tuple[str, str]]) -> list[Any]:
    return [
        pytest.param(how, phase, marks=() if (party, how, phase) in QUICK else pytest.mark.large, id=f"{how}-{phase}")
        for how, phase in phases
    ]


@pytest.mark.parametrize(("how", "phase"), cases("worker", WORKER))
def test_a_killed_worker_leaves_nothing_unproven_and_the_others_serve_the_version(
    tmp_path: Path, tiny_model: Path, how: str, phase: str
) -> None:
    with Arena(tmp_path, tiny_model, phase) as arena:
        assert arena.halt is not None
        arena.halt.arm()
        publishing = arena.publish(2, how)
        arena.halt.wait_until_reached(lambda: arena.log)
        killed = arena.kill_first()
        arena.start_worker()
        publishing.result(WAIT_S)
        arena.wait_until_all_serve(2)

        groups, versions = arena.audit(killed)
    assert groups
    assert versions >= {1, 2}


@pytest.mark.parametrize("phase", ["met", pytest.param("receiving", marks=pytest.mark.large)])
def test_nobody_waits_for_a_party_of_a_round_that_stands_still_with_its_connections_open(
    tmp_path: Path, tiny_model: Path, phase: str
) -> None:
    with Arena(tmp_path, tiny_model, phase) as arena:
        assert arena.halt is not None
        arena.halt.arm()
        publishing = arena.publish(2, "gloo")
        arena.halt.wait_until_reached(lambda: arena.log)
        stands_still = arena.workers.pop(0)
        stands_still.process.send_signal(signal.SIGSTOP)
        try:
            publishing.result(SOON_S)
            arena.wait_until_all_serve(2)

            (other,) = arena.workers
            assert other.terminate(SOON_S) == 0
        finally:
            stands_still.end()


@pytest.mark.large
@pytest.mark.parametrize(("how", "phase"), [("store", "load"), ("store", "prove"), ("gloo", "prove")])
def test_a_worker_killed_with_a_version_that_is_wrong_leaves_nothing_of_it_and_all_serve_the_one_before(
    tmp_path: Path, tiny_model: Path, how: str, phase: str
) -> None:
    with Arena(tmp_path, tiny_model, phase) as arena:
        assert arena.halt is not None
        arena.halt.arm()
        publishing = arena.publish(2, how, right=False)
        arena.halt.wait_until_reached(lambda: arena.log)
        killed = arena.kill_first()
        arena.start_worker()
        publishing.result(WAIT_S)
        arena.wait_until_all_serve(1, refused="does not reproduce its probe")

        _, versions = arena.audit(killed)
    assert versions <= {0, 1}


@pytest.mark.parametrize(("how", "phase"), cases("redis", WORKER))
def test_a_killed_redis_that_comes_back_delays_the_version(
    tmp_path: Path, tiny_model: Path, how: str, phase: str
) -> None:
    with Arena(tmp_path, tiny_model, phase) as arena:
        assert arena.halt is not None
        arena.halt.arm()
        publishing = arena.publish(2, how)
        arena.halt.wait_until_reached(lambda: arena.log)
        arena.restart_redis()
        arena.halt.go_on()
        publishing.result(WAIT_S)
        arena.wait_until_all_serve(2)

        _, versions = arena.audit()
    assert versions >= {1, 2}


@pytest.mark.parametrize(("how", "phase"), cases("trainer", TRAINER))
def test_a_killed_trainers_version_is_served_if_it_was_active_and_the_next_trainer_goes_on(
    tmp_path: Path, tiny_model: Path, how: str, phase: str
) -> None:
    with Arena(tmp_path, tiny_model, None) as arena:
        halt = Halt(phase, tmp_path / "trainer")
        halt.arm()
        trainer = arena.trainer(halt, 2, how)
        try:
            halt.wait_until_reached(lambda: f"exit code {trainer.poll()}\n{arena.log}")
        finally:
            trainer.kill()
            trainer.wait()
        active = phase not in UNANNOUNCED and not (how == "by_hand" and phase in INACTIVE)
        arena.wait_until_all_serve(2 if active else 1)
        arena.publish(3, "store").result(WAIT_S)
        arena.wait_until_all_serve(3)

        _, versions = arena.audit()
    assert 3 in versions
    assert (2 in versions) <= active
