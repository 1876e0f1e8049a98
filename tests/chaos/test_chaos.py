"""A short run of `make chaos`, and the proof that its audit sees what it is there to see."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from rollstream import Client
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from rollstream.schemas import GroupResult, Tensor, decode, encode
from rollstream.schemas.wire.messages import DeadLetter
from tests.chaos import run
from tests.chaos.audit import Findings, Undisturbed, audit_all
from tests.chaos.plan import KINDS, VERSIONS, VOCABULARY, Plan, make_plan
from tests.support.fault_steps import stub, wait_until_done
from tests.support.faults import Queue

SMALL = 20
"""Jobs of the plan that the audit is tried on."""


def test_a_short_seeded_run_loses_and_doubles_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = tmp_path / "numbers.json"
    flags = ["--seed", "3", "--jobs", "150", "--workers", "2", "--faults", str(len(KINDS)), "--lease-s", "1"]
    flags += ["--versions", str(len(VERSIONS))]

    code = run.main([*flags, "--json", str(numbers)])

    said = capsys.readouterr().out
    found = json.loads(numbers.read_text())
    under_faults = found["with_faults"]
    assert code == 0, said
    assert under_faults["answered"] == found["groups"]
    assert (under_faults["lost"], under_faults["doubled"], under_faults["wrong"]) == (0, 0, 0)
    assert set(under_faults["faults"]) == set(KINDS)
    assert under_faults["redelivered"] > 0
    assert under_faults["dead"] > found["without_faults"]["dead"], "the poison job is no dead letter"


def test_the_seed_decides_the_plan() -> None:
    assert make_plan(1, 100, 2, 9, 1.0) == make_plan(1, 100, 2, 9, 1.0)
    assert make_plan(1, 100, 2, 9, 1.0) != make_plan(2, 100, 2, 9, 1.0)


@pytest.fixture(scope="module")
def small_plan() -> Plan:
    return make_plan(5, SMALL, 1, 0, 1.0)


@pytest.fixture(scope="module")
def answered(small_plan: Plan) -> Iterator[Queue]:
    """What Redis holds after a run of the small plan in which nothing went wrong."""
    with (
        EmbeddedRedis() as server,
        Queue(server.url, "audited") as queue,
        Client(server.url, policy="audited") as client,
    ):
        for batch, malformed in zip(small_plan.batches, small_plan.malformed, strict=True):
            per_job = batch.prompts_per_job
            client.submit(batch.prompts, None, batch.config, batch_id=batch.batch_id, prompts_per_job=per_job)
            for entry in malformed:
                queue.redis.xadd(queue.jobs_key, cast("Any", entry.fields))
        with stub(server.url, "audited") as worker:
            for batch in small_plan.batches:
                wait_until_done(queue, batch.batch_id, len(batch.prompts), worker)
        yield queue


@pytest.fixture
def tampered(answered: Queue) -> Iterator[Queue]:
    """The same, for a test to spoil: what it changes is put back."""
    kept = {key: answered.redis.dump(key) for key in answered.redis.scan_iter()}
    yield answered
    answered.redis.flushall()
    for key, value in kept.items():
        answered.redis.restore(key, 0, cast("bytes", value))


def found_in(queue: Queue, plan: Plan) -> Findings:
    with Undisturbed() as expected:
        return audit_all(queue, plan, expected, poisoned=False)


def first_result(queue: Queue, plan: Plan) -> tuple[str, bytes, GroupResult]:
    """Key, entry id and message of the first group that has completions."""
    for batch in plan.batches:
        key = queue.keys.results(batch.batch_id)
        for entry_id, fields in cast("list[tuple[bytes, dict[bytes, bytes]]]", queue.redis.xrange(key)):
            if fields[b"kind"] == b"group":
                return key, entry_id, decode(fields[b"payload"], GroupResult)
    raise AssertionError("no completions")


def put(queue: Queue, key: str, records: list[dict[bytes, bytes]]) -> None:
    """Replace the result stream by these records."""
    queue.redis.delete(key)
    for fields in records:
        queue.redis.xadd(key, cast("Any", fields))


def records_of(queue: Queue, key: str) -> list[dict[bytes, bytes]]:
    return [fields for _, fields in cast("list[tuple[bytes, dict[bytes, bytes]]]", queue.redis.xrange(key))]


def test_the_audit_finds_nothing_where_nothing_is_wrong(tampered: Queue, small_plan: Plan) -> None:
    found = found_in(tampered, small_plan)

    assert found.clean, found.problems
    assert found.answered >= small_plan.num_groups


def test_the_audit_sees_a_record_that_is_missing(tampered: Queue, small_plan: Plan) -> None:
    key, entry_id, _ = first_result(tampered, small_plan)
    tampered.redis.xdel(key, entry_id)

    assert (found_in(tampered, small_plan).lost, found_in(tampered, small_plan).clean) == (1, False)


def test_the_audit_sees_a_record_that_is_there_twice(tampered: Queue, small_plan: Plan) -> None:
    key, _, _ = first_result(tampered, small_plan)
    records = records_of(tampered, key)
    put(tampered, key, [records[0], *records])

    found = found_in(tampered, small_plan)
    assert (found.doubled, found.lost, found.wrong) == (1, 0, 0)


def test_the_audit_sees_one_changed_token(tampered: Queue, small_plan: Plan) -> None:
    key, _, result = first_result(tampered, small_plan)
    tokens = result.token_ids.numpy().copy()
    tokens[0, 0] = (tokens[0, 0] + 1) % VOCABULARY
    changed = encode(result.model_copy(update={"token_ids": Tensor.of(tokens)}))
    same = encode(result)
    put(tampered, key, [{**r, b"payload": changed} if r[b"payload"] == same else r for r in records_of(tampered, key)])

    found = found_in(tampered, small_plan)
    assert (found.wrong, found.lost, found.doubled) == (1, 0, 0)


def test_the_audit_sees_tokens_of_a_version_that_nobody_may_serve(tampered: Queue, small_plan: Plan) -> None:
    key, _, result = first_result(tampered, small_plan)
    spans = tuple(((8, sum(count for _, count in each)),) for each in result.version_spans)
    changed, same = encode(result.model_copy(update={"version_spans": spans})), encode(result)
    put(tampered, key, [{**r, b"payload": changed} if r[b"payload"] == same else r for r in records_of(tampered, key)])

    found = found_in(tampered, small_plan)
    assert found.unproven == len(spans)
    assert not found.clean


@pytest.mark.parametrize("spoil", ["missing", "not last", "twice"])
def test_the_audit_sees_a_broken_seal(tampered: Queue, small_plan: Plan, spoil: str) -> None:
    key, _, _ = first_result(tampered, small_plan)
    *answers, seal = records_of(tampered, key)
    put(tampered, key, {"missing": answers, "not last": [seal, *answers], "twice": [*answers, seal, seal]}[spoil])

    assert found_in(tampered, small_plan).wrong == 1


def test_the_audit_sees_a_job_that_was_queued_twice_or_not_at_all(tampered: Queue, small_plan: Plan) -> None:
    (first, fields), (second, _) = [entry for entry in tampered.entries() if entry[1].get(b"batch") == b"batch-0"][:2]
    tampered.redis.xadd(tampered.jobs_key, cast("Any", fields))
    tampered.redis.xdel(tampered.jobs_key, second)

    found = found_in(tampered, small_plan)
    assert (found.doubled, found.lost) == (1, 1), first


def test_the_audit_sees_a_dead_letter_that_is_missing_or_of_no_job(tampered: Queue, small_plan: Plan) -> None:
    key = tampered.keys.dead(0)
    (entry_id, fields), *_ = cast("list[tuple[bytes, dict[bytes, bytes]]]", tampered.redis.xrange(key))
    innocent = next(number for number, job in tampered.entries() if job.get(b"batch") == b"batch-0")
    letter = decode(fields[b"letter"], DeadLetter).model_copy(update={"entry_id": innocent})
    tampered.redis.xdel(key, entry_id)
    tampered.redis.xadd(key, {"letter": encode(letter), "payload": dict(tampered.entries())[innocent][b"payload"]})

    found = found_in(tampered, small_plan)
    assert (found.lost, found.wrong) == (1, 1), found.problems


def test_the_audit_sees_an_entry_that_is_still_pending(tampered: Queue, small_plan: Plan) -> None:
    tampered.redis.xadd(tampered.jobs_key, {"payload": b""})
    tampered.redis.xreadgroup("workers", "gone", {tampered.jobs_key: ">"})

    assert found_in(tampered, small_plan).pending == 1
