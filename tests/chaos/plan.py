"""What a chaos run will do, from its seed alone: the batches, the hostile entries and the faults."""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass, field

import numpy as np

from rollstream.schemas import Envelope, GenerationConfig, Job, Tensor, encode

VOCABULARY = 1000
POISON = 999
"""A prompt with this token ends its worker; no other prompt has it."""
KINDS = (
    "kill -9", "kill -9", "SIGSTOP", "SIGTERM", "link freeze", "link drop", "lost reply", "lost reply", "redis kill -9",
)  # fmt: skip
"""Kinds of faults; a kind that is here twice happens twice as often."""
NEVER_SERVED = ("wrong probe", "other files", "never activated")
"""Kinds of versions under which nothing may be sampled: their weights do not reproduce the probe, their files are not
those that were announced, or their trainer was killed between announcement and activation."""
VERSIONS = ("at once", "when prepared", "by hand", "at once", *NEVER_SERVED)
"""Kinds of versions, by how they are activated."""
REPLIES = ("publish.lua", "publish.lua", "renew.lua", "claim.lua", "bury.lua", "XREADGROUP")
"""Scripts and commands whose replies may be lost."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Strikes once, and is undone `lasts_s` later."""

    at: float
    """The share of all groups that is answered when it strikes."""
    kind: str
    target: int
    """Which worker; the number of workers stands for the producer, which only its link can fail."""
    lasts_s: float
    reply: str
    """For a lost reply: the script or command that it answers."""


@dataclass(frozen=True, slots=True)
class PlannedVersion:
    """One policy version that the trainer publishes."""

    number: int
    at: float
    """The share of all groups that is answered when it is published."""
    kind: str

    @property
    def is_served(self) -> bool:
        """Whether workers may serve it at all."""
        return self.kind not in NEVER_SERVED


@dataclass(frozen=True, slots=True)
class PlannedBatch:
    """One submit."""

    batch_id: str
    prompts: list[list[int]]
    config: GenerationConfig
    prompts_per_job: int
    bad: frozenset[int]
    """Groups whose prompt holds a token outside the vocabulary."""
    poison: frozenset[int]
    """Jobs that end their worker."""

    @property
    def num_jobs(self) -> int:
        return -(-len(self.prompts) // self.prompts_per_job)

    @property
    def session(self) -> str | None:
        """Half of the batches are turns of two conversations, whose jobs wait for each other's workers."""
        number = zlib.crc32(self.batch_id.encode())
        return f"talk-{number // 2 % 2}" if number % 2 else None

    @property
    def poison_groups(self) -> frozenset[int]:
        """Groups whose prompt holds the poison: the first of each poison job."""
        return frozenset(job * self.prompts_per_job for job in self.poison)

    def job_of(self, group: int) -> int:
        return group // self.prompts_per_job


@dataclass(frozen=True, slots=True)
class Malformed:
    """An entry that is XADDed as it stands; `envelope` says whom its error answers go to, if anybody."""

    fields: dict[bytes, bytes]
    envelope: Envelope | None


@dataclass(frozen=True, slots=True)
class Plan:
    seed: int
    workers: int
    lease_s: float
    batches: list[PlannedBatch]
    malformed: list[list[Malformed]] = field(repr=False)
    """Those that follow each batch."""
    faults: list[Fault]
    versions: list[PlannedVersion]

    @property
    def serves_last(self) -> int:
        """The version that every worker serves in the end; 0 is the boot model."""
        return max((one.number for one in self.versions if one.is_served), default=0)

    @property
    def num_jobs(self) -> int:
        return sum(batch.num_jobs for batch in self.batches)

    @property
    def num_groups(self) -> int:
        return sum(len(batch.prompts) for batch in self.batches)

    def __str__(self) -> str:
        lines = [f"seed {self.seed}: {len(self.batches)} batches, {self.num_jobs} jobs, {self.num_groups} groups"]
        for fault in self.faults:
            who = "redis" if fault.kind.startswith("redis") else f"worker {fault.target}"
            who = "producer" if fault.target == self.workers else who
            detail = f"to {fault.reply}" if fault.kind == "lost reply" else f"for {fault.lasts_s:.1f} s"
            lines.append(f"  at {fault.at:6.1%}  {fault.kind:13} {who:9} {detail}")
        lines += [f"  at {one.at:6.1%}  version {one.number:<5} {one.kind}" for one in self.versions]
        return "\n".join(lines)


def make_plan(seed: int, jobs: int, workers: int, faults: int, lease_s: float, versions: int = 0) -> Plan:
    """The same for the same arguments, in every process."""
    rng = random.Random(f"{seed}/{jobs}/{workers}/{faults}")
    sizes = [jobs // 20] * 20 if jobs >= 1000 else [jobs // 4] * 4
    sizes[-1] += jobs - sum(sizes)
    poisoned = {rng.randrange(len(sizes)) for _ in range(max(1, jobs // 1000))}
    batches = [_batch(rng, number, size, poison=number in poisoned) for number, size in enumerate(sizes)]
    each = max(1, jobs // 100 // len(sizes))
    malformed = [[_malformed(rng, f"bad-{number}-{which}") for which in range(each)] for number in range(len(sizes))]
    struck = _faults(rng, faults, workers, lease_s)
    return Plan(seed, workers, lease_s, batches, malformed, struck, _versions(rng, versions))


def _batch(rng: random.Random, number: int, jobs: int, *, poison: bool) -> PlannedBatch:
    per_job = rng.choice((1, 1, 2, 3))
    count = jobs * per_job
    prompts = [[rng.randrange(3, POISON) for _ in range(rng.randrange(1, 12))] for _ in range(count)]
    bad = frozenset(group for group in range(count) if rng.random() < 0.02)
    for group in bad:
        prompts[group].append(VOCABULARY + rng.randrange(100))
    poisoned = frozenset({rng.randrange(jobs)} if poison else ())
    for job in poisoned:
        prompts[job * per_job] = [5, POISON]
        bad -= {job * per_job}
    config = GenerationConfig(
        max_new_tokens=rng.randrange(5, 15),
        num_return_sequences=rng.choice((1, 1, 2)),
        seed=rng.randrange(2**40),
        ignore_eos=rng.random() < 0.5,
        stop_token_ids=tuple(rng.sample(range(VOCABULARY), 20)),
    )
    return PlannedBatch(f"batch-{number}", prompts, config, per_job, bad, poisoned)


def _malformed(rng: random.Random, batch_id: str) -> Malformed:
    """Nobody's batch but its own: an entry that answers for another's groups is another's answer."""
    groups = rng.randrange(1, 4)
    envelope = Envelope(batch_id=batch_id, job=0, first_group=0, job_groups=groups, num_groups=groups)
    job = Job(
        batch_id=batch_id,
        job=0,
        first_group=0,
        num_groups=groups,
        prompt_ids=Tensor.of(np.full(groups, 5, np.int32)),
        prompt_lengths=Tensor.of(np.ones(groups, np.int32)),
        config=GenerationConfig(max_new_tokens=4),
        submitted_at=0.0,
    )
    payload = encode(job)
    noise = rng.randbytes(rng.randrange(1, 400))
    match rng.randrange(4):
        case 0:
            return Malformed({b"payload": noise}, None)
        case 1:
            return Malformed(envelope.fields(noise), envelope)
        case 2:
            return Malformed(envelope.fields(payload[: rng.randrange(len(payload))]), envelope)
        case _:
            lies = Envelope(batch_id=batch_id, job=0, first_group=0, job_groups=groups + 1, num_groups=groups + 1)
            return Malformed(lies.fields(payload), lies)


def _faults(rng: random.Random, count: int, workers: int, lease_s: float) -> list[Fault]:
    """Every kind in turn, shuffled: a short run has a few of each too."""
    kinds = [KINDS[number % len(KINDS)] for number in range(count)]
    rng.shuffle(kinds)
    return [
        _fault(rng, 0.02 + 0.9 * number / max(1, count), kind, workers, lease_s) for number, kind in enumerate(kinds)
    ]


def _versions(rng: random.Random, count: int) -> list[PlannedVersion]:
    """Every kind in turn, shuffled; the numbers have gaps."""
    kinds = [VERSIONS[number % len(VERSIONS)] for number in range(count)]
    rng.shuffle(kinds)
    numbers = [3 * number + rng.randrange(1, 4) for number in range(count)]
    each = zip(numbers, kinds, strict=True)
    return [PlannedVersion(number, 0.01 + 0.9 * which / count, kind) for which, (number, kind) in enumerate(each)]


def _fault(rng: random.Random, at: float, kind: str, workers: int, lease_s: float) -> Fault:
    of_links = kind.startswith(("link", "lost"))
    target = rng.randrange(workers + 1 if of_links else workers)
    past_the_lease = kind in ("SIGSTOP", "link freeze")
    lasts_s = lease_s * (rng.uniform(1.3, 2.5) if past_the_lease else rng.uniform(0.1, 1.5))
    reply = "submit.lua" if target == workers else rng.choice(REPLIES)
    return Fault(at, kind, target, lasts_s, reply)
