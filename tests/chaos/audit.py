"""What Redis holds after a chaos run, against what the plan says: every deviation is counted and named."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np

from rollstream.producer.batches.read_answers import Answer
from rollstream.producer.demo.tiny_model import write_model
from rollstream.schemas import Envelope, ErrorCode, GroupError, GroupResult, Sealed
from rollstream.schemas.wire.entry_fields import PAYLOAD
from rollstream.schemas.wire.fields import VersionSpan
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engines.stub import StubEngine
from rollstream.worker.jobs import request_checks
from rollstream.worker.jobs.seeds import prompt_seed
from rollstream.worker.requests import GenerateRequest
from tests.chaos.plan import VOCABULARY, Malformed, Plan, PlannedBatch
from tests.support.faults import Queue

Expected = dict[tuple[str, int, int], list[list[int]]]
"""What each version samples where nothing stops it: token ids of every completion, by batch, group and version."""


@dataclass
class Findings:
    """Counts over all batches; `problems` has a line for each thing lost, doubled or wrong."""

    answered: int = 0
    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    redelivered: int = 0
    """Groups whose completions came from a later delivery than the first."""
    errors: int = 0
    """Groups answered with a typed error, as planned."""
    dead: int = 0
    pending: int = 0
    unproven: int = 0
    """Completions with tokens of a version that nothing may be sampled under."""
    behind: int = 0
    """Workers that do not serve, in the end, the newest version that may be served."""
    swapped: int = 0
    """Completions that two versions or more have sampled."""
    given_up: int = 0
    """Groups of jobs without fault that got `too_many_deliveries`: each time their worker ended, by another's doing."""
    problems: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        counts = self.lost, self.doubled, self.wrong, self.pending, self.given_up, self.unproven, self.behind
        return not any(counts)

    def note(self, kind: str, problem: str) -> None:
        """`kind` is the name of a count."""
        setattr(self, kind, getattr(self, kind) + 1)
        self.problems.append(f"{kind}: {problem}")


class Undisturbed:
    """What the stub engine samples when nothing happens to it, under any version. Use as `with`."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._engines: dict[int, StubEngine] = {}
        self._sampled: Expected = {}
        self._checkpoint = tempfile.TemporaryDirectory(prefix="rollstream-chaos-")
        write_model(Path(self._checkpoint.name), seed=0, tokenizer=False)

    def __enter__(self) -> Undisturbed:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._runner.close()
        self._checkpoint.cleanup()

    def stops(self, batch: PlannedBatch) -> tuple[int, ...]:
        """The ids that end a completion."""
        return request_checks.stop_ids(batch.config, self._engine(0).info)

    def sampled(self, batch: PlannedBatch, group: int, version: int) -> list[list[int]]:
        """The completions of a group as `version` samples them, with all `max_new_tokens`."""
        key = batch.batch_id, group, version
        if key not in self._sampled:
            seed = prompt_seed(batch.config.seed or 0, group)
            request = GenerateRequest(
                request_id="", prompt=batch.prompts[group], config=batch.config, stop_token_ids=(), seed=seed,
                adapter=None,
            )  # fmt: skip
            completions = self._runner.run(self._engine(version).generate(request))
            self._sampled[key] = [completion.token_ids.tolist() for completion in completions]
        return self._sampled[key]

    def _engine(self, version: int) -> StubEngine:
        if version not in self._engines:
            engine = StubEngine(WorkerSettings(policy="undisturbed", engine="stub", stub_vocab_size=VOCABULARY))
            if version:
                self._runner.run(engine.load_checkpoint(version, Path(self._checkpoint.name), "keep"))
            self._engines[version] = engine
        return self._engines[version]


def audit_all(queue: Queue, plan: Plan, expected: Undisturbed, *, poisoned: bool = True) -> Findings:
    """Everything that the plan queued. `poisoned`: poison jobs must have ended as dead letters."""
    findings = Findings()
    jobs = Counter(_job_of(fields) for _, fields in queue.entries())
    for batch in plan.batches:
        _audit_batch(queue, plan, batch, expected, findings, poisoned=poisoned)
        for job in range(batch.num_jobs):
            if jobs[batch.batch_id, str(job)] != 1:
                kind = "doubled" if jobs[batch.batch_id, str(job)] else "lost"
                findings.note(kind, f"{batch.batch_id} job {job} has {jobs[batch.batch_id, str(job)]} entries")
    for malformed in (entry for entries in plan.malformed for entry in entries):
        _audit_malformed(queue, malformed, findings)
    _audit_dead_letters(queue, plan, findings, poisoned=poisoned)
    for entry_id, holder in queue.holders().items():
        findings.note("pending", f"{entry_id} is held by {holder}")
    return findings


def _job_of(fields: dict[bytes, bytes]) -> tuple[str, str]:
    return fields.get(b"batch", b"").decode(), fields.get(b"job", b"").decode()


def _audit_batch(
    queue: Queue, plan: Plan, batch: PlannedBatch, expected: Undisturbed, findings: Findings, *, poisoned: bool
) -> None:
    served = {0, *(one.number for one in plan.versions if one.is_served)}
    for group, answers in _by_group(queue, batch.batch_id, len(batch.prompts), findings).items():
        for answer in answers[:1]:
            findings.redelivered += getattr(answer, "delivery", 1) > 1
            findings.errors += isinstance(answer, GroupError)
            poison = poisoned and batch.job_of(group) in batch.poison
            problem = _wrong(answer, batch, expected, poison=poison)
            for spans in answer.version_spans if isinstance(answer, GroupResult) else ():
                findings.swapped += len(spans) > 1
                if unproven := {version for version, _ in spans} - served:
                    findings.note("unproven", f"{batch.batch_id} group {group} has tokens of version {unproven}")
            if problem:
                given_up = isinstance(answer, GroupError) and answer.code == ErrorCode.TOO_MANY_DELIVERIES
                findings.note("given_up" if given_up else "wrong", f"{batch.batch_id} group {group}: {problem}")


def _by_group(queue: Queue, batch_id: str, num_groups: int, findings: Findings) -> dict[int, list[Answer]]:
    """The answers of every group, after counting those that are missing or too many, and checking the seal."""
    records = queue.answers(batch_id)
    found: dict[int, list[Answer]] = {group: [] for group in range(num_groups)}
    for answer in records:
        if not isinstance(answer, Sealed):
            found.setdefault(answer.group, []).append(answer)
    seals = [position for position, record in enumerate(records) if isinstance(record, Sealed)]
    if seals != [len(records) - 1]:
        findings.note("wrong", f"{batch_id} has seals at {seals} of {len(records)} records")
    for group, answers in found.items():
        findings.answered += bool(answers)
        if not answers:
            findings.note("lost", f"{batch_id} group {group} has no answer")
        for _ in answers[1:]:
            findings.note("doubled", f"{batch_id} group {group} has {len(answers)} answers")
    return found


def _wrong(answer: Answer, batch: PlannedBatch, expected: Undisturbed, *, poison: bool) -> str:
    """What is wrong with the answer, or nothing."""
    code = answer.code if isinstance(answer, GroupError) else None
    if poison and code == ErrorCode.TOO_MANY_DELIVERIES:
        return ""
    wanted = ErrorCode.TOKEN_OUT_OF_VOCABULARY if answer.group in batch.bad else None
    if poison and answer.group in batch.poison_groups:
        return f"a poison prompt was answered with {code or 'completions'}"
    if code != wanted:
        return f"{code or 'completions'} instead of {wanted or 'completions'}"
    return "" if isinstance(answer, GroupError) else _wrong_bytes(answer, batch, expected)


def _wrong_bytes(answer: GroupResult, batch: PlannedBatch, expected: Undisturbed) -> str:
    prompt = batch.prompts[answer.group]
    rows = [row[:length].tolist() for row, length in zip(answer.token_ids.numpy(), answer.lengths.numpy(), strict=True)]
    spans_of = enumerate(answer.version_spans)
    wanted = [_by_spans(batch, answer.group, sample, spans, expected) for sample, spans in spans_of]
    if rows != wanted:
        return f"tokens {rows} instead of {wanted}"
    if not np.array_equal(answer.prompt.numpy(), prompt):
        return f"prompt {answer.prompt.numpy().tolist()} instead of {prompt}"
    return ""


def _by_spans(
    batch: PlannedBatch, group: int, sample: int, spans: Sequence[VersionSpan], expected: Undisturbed
) -> list[int]:
    """The tokens that a completion must have, if these versions sampled it: up to its first stop id, or all."""
    tokens: list[int] = []
    for version, count in spans:
        tokens += expected.sampled(batch, group, version)[sample][len(tokens) : len(tokens) + count]
    stops = expected.stops(batch)
    ends = [place for place, token in enumerate(tokens) if token in stops]
    whole = len(tokens) == batch.config.max_new_tokens
    return tokens[: ends[0] + 1] if ends else tokens if whole else [*tokens, -1]


def _audit_malformed(queue: Queue, malformed: Malformed, findings: Findings) -> None:
    """Its error answers; its dead letter is counted with the others."""
    if malformed.envelope is None:
        return
    envelope: Envelope = malformed.envelope
    for group, answers in _by_group(queue, envelope.batch_id, envelope.num_groups, findings).items():
        codes = {answer.code if isinstance(answer, GroupError) else "completions" for answer in answers}
        findings.errors += bool(answers)
        if codes - {ErrorCode.UNREADABLE_JOB}:
            findings.note("wrong", f"{envelope.batch_id} group {group}: {codes} instead of unreadable_job")


def _audit_dead_letters(queue: Queue, plan: Plan, findings: Findings, *, poisoned: bool) -> None:
    """One dead letter for every malformed entry and every poison job, with its bytes, and none for others."""
    entries = dict(queue.entries())
    wanted = {entry_id for entry_id, fields in entries.items() if _is_malformed(fields, plan)}
    if poisoned:
        wanted |= {_entry_of(queue, batch, job) for batch in plan.batches for job in batch.poison}
    found = Counter(letter.entry_id for letter, _ in queue.dead())
    findings.dead = found.total()
    for entry_id in wanted | found.keys():
        if found[entry_id] != 1:
            findings.note("doubled" if found[entry_id] else "lost", f"{found[entry_id]} dead letters of {entry_id}")
    for letter, payload in queue.dead():
        if letter.entry_id not in wanted and "given up after" not in letter.error:
            findings.note("wrong", f"a dead letter of {_job_of(entries[letter.entry_id])}: {letter.error}")
        if payload != entries.get(letter.entry_id, {}).get(PAYLOAD):
            findings.note("wrong", f"the dead letter of {letter.entry_id} has other bytes")


def _is_malformed(fields: dict[bytes, bytes], plan: Plan) -> bool:
    names = {batch.batch_id for batch in plan.batches}
    return _job_of(fields)[0] not in names


def _entry_of(queue: Queue, batch: PlannedBatch, job: int) -> str:
    entry_id = cast("bytes | None", queue.redis.hget(queue.keys.ledger(batch.batch_id), f"job:{job}"))
    return (entry_id or b"").decode()
