"""Thousands of entries that no producer would write: none harms the worker, and a valid job between them is served."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from rollstream import GenerationConfig
from rollstream.schemas import Envelope, Job, Tensor, WireError, encode
from tests.support.faults import Queue
from tests.support.worker_process import WorkerProcess, running_worker, wait_for

VALID_EACH = 100
"""Entries between two valid jobs."""
MAX_GROWTH = 150 * 2**20
"""Bytes that the worker may grow by: what it holds is one small entry at a time, and logs of them."""

NUMBERS = st.sampled_from([0, 1, 2, 3, -1, 64, 65, 4096, 2**31 - 1, 2**31, 2**63, 2**64 - 1, 10**10])
STRANGE: st.SearchStrategy[Any] = st.one_of(
    NUMBERS,
    st.sampled_from([None, True, False, "", "x", "never", 0.0, -0.0, 1.0, 0.5, 1e-9, 1e308, b"", b"\xff", (), (1,)]),
    st.sampled_from([float("nan"), float("inf"), float("-inf"), {}, {"a": 1}, ((1, 1.0),), (0, 999, 1000), ("x",)]),
    st.lists(st.integers(-2, 1001), max_size=5),
    st.text(max_size=8),
)
CONFIGS = st.dictionaries(st.sampled_from([*GenerationConfig.model_fields, "temperatur", "n"]), STRANGE, max_size=4)
JOB_FIELDS = st.dictionaries(
    st.sampled_from([*Job.model_fields, "extra"]),
    st.one_of(
        STRANGE,
        st.fixed_dictionaries({
            "dtype": st.sampled_from(["int32", "int64", "float32", "bit", "object", 3]),
            "shape": st.lists(st.sampled_from([-1, 0, 1, 2, 2**31, 2**62]), max_size=4),
            "data": st.binary(max_size=16),
        }),
    ),
    min_size=1,
    max_size=3,
)  # fmt: skip
WIRE_NUMBERS = st.sampled_from([b"0", b"1", b"2", b"-1", b"", b"1.0", b"\xff", b"0x1", b" 1", b"9" * 11, b"2147483647"])
ENVELOPES = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys([b"job", b"first", b"groups", b"total"], WIRE_NUMBERS),
        b"batch": st.sampled_from([b"", b"a b", b"../x", b"\xff\xfe", b"{x}", b"-x"]) | st.binary(max_size=6),
        b"extra": st.binary(max_size=50),
    },
)
PARTS = [part for part in itertools.product((True, False), repeat=3) if any(part)]
"""What is wrong with a job: its config, its fields, its bytes."""
CUTS = st.tuples(st.integers(0, 10_000), st.integers(0, 255), st.booleans())


@dataclass(frozen=True, slots=True)
class Entry:
    """What is XADDed; `envelope` as the worker must read it, None when it names no batch."""

    fields: dict[bytes, bytes]
    envelope: Envelope | None
    valid: bool


def job(batch_id: str) -> dict[str, Any]:
    made = Job(
        batch_id=batch_id,
        job=0,
        first_group=0,
        num_groups=1,
        prompt_ids=Tensor.of(np.array([5, 6, 7], np.int32)),
        prompt_lengths=Tensor.of(np.array([3], np.int32)),
        config=GenerationConfig(max_new_tokens=4),
        submitted_at=0.0,
    )
    fields: dict[str, Any] = msgpack.unpackb(encode(made))
    return fields


def mutated(payload: bytes, cuts: list[tuple[int, int, bool]]) -> bytes:
    """Bytes changed where a cut is a flip, the rest cut off where it is not."""
    changed = bytearray(payload)
    for position, value, flips in cuts:
        if flips and changed:
            changed[position % len(changed)] ^= value
        else:
            del changed[position % (len(changed) + 1) :]
    return bytes(changed)


def packed(fields: dict[str, Any]) -> bytes:
    data: bytes = msgpack.packb(fields)
    return data


def entries(examples: int) -> list[Entry]:
    """Sixteen of each of `examples`, and a valid one among every hundred; the same in every run.

    Drawing is what takes time: an example's parts are combined in every way.
    """
    made: list[Entry] = []

    def add(payload: bytes, changes: dict[bytes, bytes] | None = None, *, valid: bool = False) -> None:
        fields = Envelope(batch_id=f"b{len(made)}", job=0, first_group=0, job_groups=1, num_groups=1).fields(
            payload
        ) | (changes or {})
        try:
            envelope = Envelope.of(fields)
        except WireError:
            envelope = None
        made.append(Entry(fields, envelope, valid))
        if len(made) % VALID_EACH == 0:
            add(packed(job(f"b{len(made)}")), valid=True)

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.binary(max_size=80), st.lists(CUTS, min_size=1, max_size=3), CONFIGS, JOB_FIELDS, ENVELOPES)
    def collect(
        noise: bytes,
        cuts: list[tuple[int, int, bool]],
        config: dict[str, Any],
        changes: dict[str, Any],
        envelope: dict[bytes, bytes],
    ) -> None:
        for entry_changes in ({}, envelope):
            add(noise, entry_changes)
            for of_config, of_job, of_bytes in PARTS:
                fields = job(f"b{len(made)}")
                fields["config"] |= config if of_config else {}
                fields |= changes if of_job else {}
                add(mutated(packed(fields), cuts if of_bytes else []), entry_changes)

    collect()
    return made


@pytest.fixture
def worker(redis_url: str, policy: str) -> Iterator[WorkerProcess]:
    """Without a line for each answer."""
    with running_worker(
        redis_url, policy, "--engine", "stub", "--stub-vocab-size", "1000", "--log-level", "error"
    ) as worker:
        yield worker


@pytest.mark.timeout(300)
@pytest.mark.parametrize("hostile", [500, pytest.param(10_000, marks=pytest.mark.large)])
def test_many_hostile_entries_harm_no_valid_job_between_them(queue: Queue, worker: WorkerProcess, hostile: int) -> None:
    sent = entries(hostile // 16 + 5)
    assert sum(not entry.valid for entry in sent) >= hostile
    process = psutil.Process(worker.process.pid)
    before = process.memory_info().rss
    with queue.redis.pipeline(transaction=False) as pipe:
        for entry in sent:
            fields: Any = entry.fields
            pipe.xadd(queue.jobs_key, fields)
        ids = [entry_id.decode() for entry_id in pipe.execute()]
    wait_for(lambda: all_taken(queue, ids[-1]), 200, lambda: f"{queue.holders()}\n{worker.log[-5000:]}")

    assert worker.process.poll() is None
    assert process.memory_info().rss - before < MAX_GROWTH
    letters = Counter((letter.entry_id, payload) for letter, payload in queue.dead())
    answers = all_answers(queue, sent)
    assert set(letters.values()) == {1}, "a dead letter was written twice"
    for entry, entry_id in zip(sent, ids, strict=True):
        check(entry, answers, letters[entry_id, entry.fields[b"payload"]])


def all_taken(queue: Queue, last: str) -> bool:
    group: dict[str, Any] = queue.redis.xinfo_groups(queue.jobs_key)[0]
    return bool(group["last-delivered-id"].decode() == last and group["pending"] == 0)


def all_answers(queue: Queue, sent: list[Entry]) -> dict[str, list[str]]:
    """Kinds of the records of each batch, in order."""
    batches = list(dict.fromkeys(entry.envelope.batch_id for entry in sent if entry.envelope is not None))
    with queue.redis.pipeline(transaction=False) as pipe:
        for batch_id in batches:
            pipe.xrange(queue.keys.results(batch_id))
        found: list[list[tuple[bytes, dict[bytes, bytes]]]] = pipe.execute()
    return {
        batch_id: [fields[b"kind"].decode() for _, fields in records]
        for batch_id, records in zip(batches, found, strict=True)
    }


def check(entry: Entry, answers: dict[str, list[str]], letters: int) -> None:
    """A valid job is served; what names its groups has a terminal record for each; what names none is a dead letter."""
    if entry.envelope is None:
        assert letters == 1, entry
        return
    kinds = answers[entry.envelope.batch_id]
    if entry.valid:
        assert kinds == ["group", "sealed"], entry
    elif entry.fields[b"batch"].startswith(b"b"):
        sealed = ["sealed"] if entry.envelope.job_groups == entry.envelope.num_groups else []
        assert sorted(kinds) == sorted([*(kind for kind in kinds if kind != "sealed"), *sealed]), entry
        assert len(kinds) == entry.envelope.job_groups + len(sealed), entry
