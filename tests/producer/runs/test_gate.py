"""A gate that goes on after a restart admits exactly what the one before would have admitted."""

from __future__ import annotations

import pytest

from rollstream import AsyncClient, GateArgumentError, GenerationConfig, StalenessGate
from rollstream.producer.runs.run import Run
from tests.support.worker_process import WorkerProcess

CONFIG = GenerationConfig(max_new_tokens=2, num_return_sequences=2)
SAMPLES = 4


async def opened(client: AsyncClient) -> Run:
    run = client.run("exp")
    await run.open()
    return run


def gate_of(run: Run, version: int = 0, staleness: int = 1) -> StalenessGate:
    return run.gate(batch_samples=SAMPLES, max_staleness=staleness, version=version)


async def submit(run: Run, admitted: int | None) -> None:
    await run.submit([[1], [2]], None, CONFIG, admitted=admitted)


def shown(gate: StalenessGate) -> tuple[object, ...]:
    counts = gate.counts
    return (
        gate.version, gate.limit, gate.outstanding, gate.due, counts.submitted, counts.consumed, counts.failed,
        counts.returned, counts.late, dict(gate.staleness),
    )  # fmt: skip


async def test_a_restarted_gate_is_as_the_one_before_at_each_step(trainer: AsyncClient) -> None:
    run = await opened(trainer)
    gate = gate_of(run)
    for step in range(3):
        while (admitted := gate.try_admit(SAMPLES)) is not None:
            await submit(run, admitted)
        await run.consumed(run.outstanding[0], cursor=step)

        run = await opened(trainer)
        again = gate_of(run, gate.version)
        assert shown(again) == shown(gate)
        gate = again
        gate.advance(step + 1)


async def test_samples_that_were_admitted_and_never_submitted_are_free_again(trainer: AsyncClient) -> None:
    run = await opened(trainer)
    gate = gate_of(run)
    await submit(run, gate.try_admit(SAMPLES))
    assert gate.try_admit(SAMPLES) == 0  # and the trainer dies
    assert gate.try_admit(SAMPLES) is None

    again = gate_of(await opened(trainer))
    assert again.outstanding == SAMPLES
    assert again.try_admit(SAMPLES) == 0


async def test_a_batch_is_submitted_for_workers_of_its_admission(trainer: AsyncClient) -> None:
    run = await opened(trainer)
    gate = gate_of(run, version=7)
    await submit(run, gate.try_admit(SAMPLES))
    (left,) = (await opened(trainer)).outstanding
    assert (left.admitted, left.samples) == (7, SAMPLES)


async def test_what_is_dropped_lets_others_in(trainer: AsyncClient) -> None:
    run = await opened(trainer)
    gate = gate_of(run, staleness=0)
    await submit(run, gate.try_admit(SAMPLES))
    await run.dropped(run.outstanding[0])

    again = gate_of(await opened(trainer), staleness=0)
    assert (again.counts.returned, again.try_admit(SAMPLES)) == (SAMPLES, 0)


async def test_a_trainer_that_goes_back_behind_its_cursor_is_told_so(trainer: AsyncClient) -> None:
    run = await opened(trainer)
    gate = gate_of(run, version=3)
    await submit(run, gate.try_admit(SAMPLES))
    await run.consumed(run.outstanding[0])

    with pytest.raises(GateArgumentError, match="the earlier gate was at 3"):
        gate_of(await opened(trainer), version=2)


async def test_batches_without_an_admission_are_not_the_gates(trainer: AsyncClient) -> None:
    run = await opened(trainer)
    gate = gate_of(run)
    await submit(run, None)
    await run.consumed(run.outstanding[0])
    assert (gate.outstanding, gate.counts.consumed) == (0, 0)


async def test_a_selection_of_a_batch_lets_all_of_its_samples_out(
    trainer: AsyncClient, stub_worker: WorkerProcess
) -> None:
    run = await opened(trainer)
    gate = gate_of(run, staleness=0)
    handle = await run.submit([[1], [2]], None, CONFIG, admitted=gate.try_admit(SAMPLES))
    rollouts = await handle.result(timeout=20)
    await run.consumed(rollouts.select([True, False]))
    gate.advance(1)

    again = gate_of(await opened(trainer), version=1, staleness=0)
    assert (again.counts.consumed, again.counts.cut, again.outstanding) == (2, 2, 0)
    assert (again.try_admit(SAMPLES), again.try_admit(SAMPLES)) == (1, None)
