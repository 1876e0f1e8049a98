"""An engine that runs sequences as vLLM's scheduler does, by counting alone: memory, places and preemptions."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rollstream.worker.delivery.admission import Admission, Load
from rollstream.worker.delivery.places_by_memory import Look
from rollstream.worker.requests import KvUse

BLOCK = 16
STEP_S, DECODE_S, PREFILL_S = 8e-3, 4e-5, 8e-5
"""Seconds of a step, and for each sequence in it; those for each token of a prompt that is computed."""

Rule = Callable[[int, int, Look, Look], int]
"""As `places_after`."""


@dataclass(eq=False, slots=True, kw_only=True)
class Running:
    """One of a group; `computed` of its tokens have memory."""

    group: int
    prompt: int
    length: int
    done: int = 0
    computed: int = 0

    @property
    def blocks(self) -> int:
        return -(-self.computed // BLOCK)


@dataclass(slots=True, kw_only=True)
class SimulatedEngine:
    """`blocks` of memory for at most `seats` sequences at once. Time is counted, not spent."""

    seats: int
    blocks: int
    running: list[Running] = field(default_factory=list)
    waiting: deque[Running] = field(default_factory=deque)
    preemptions: int = 0
    seconds: float = 0.0

    @property
    def free(self) -> int:
        return self.blocks - sum(one.blocks for one in self.running)

    def use(self) -> KvUse:
        return KvUse(
            used=1 - self.free / self.blocks, running=len(self.running), waiting=len(self.waiting),
            preemptions=self.preemptions,
        )  # fmt: skip

    def step(self) -> list[Running]:
        """One token for each that runs; returns those that have ended."""
        self.seconds += STEP_S
        free, preempted, number = self.free, False, 0
        while number < len(self.running):
            one = self.running[number]
            need = -(-(one.computed + 1) // BLOCK) - one.blocks
            while need > free and self.running:
                last = self.running.pop()
                free, preempted = free + last.blocks, True
                last.computed = 0
                self.preemptions += 1
                self.waiting.appendleft(last)
            if number < len(self.running):
                one.computed += 1
                free -= need
                self.seconds += DECODE_S
            number += 1
        while not preempted and self.waiting and len(self.running) < self.seats:
            need = -(-(self.waiting[0].prompt + self.waiting[0].done) // BLOCK)
            if need > free:
                break
            one = self.waiting.popleft()
            one.computed = one.prompt + one.done
            free -= need
            self.seconds += PREFILL_S * one.computed
            self.running.append(one)
        for one in self.running:
            one.done += 1
        ended = [one for one in self.running if one.done >= one.length]
        self.running = [one for one in self.running if one.done < one.length]
        return ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a rule came to."""

    tokens_per_s: float
    preemptions: int
    fewest_places: int


async def outcome(engine: SimulatedEngine, groups: Sequence[Sequence[int]], rule: Rule, *, prompt: int = 64) -> Outcome:
    """Serve groups of so long completions, equally many in each, by a worker's admission.

    It looks every second of the engine's time.
    """
    todo, left, number = deque(groups), dict[int, int](), 0
    admission = Admission(limit=engine.seats * 5 // 4, places=engine.seats * 5 // 2)
    each, claim, fewest = Load(groups=1, sequences=len(groups[0])), admission.hold(0), admission.bound
    admission.expect(claim, len(groups), each)
    admission.queue(claim)
    before, next_look = Look(use=engine.use(), held=0, ended=0), 1.0
    while todo or left:
        while claim.unused:
            await admission.place(claim)
            lengths = todo.popleft()
            number += 1
            left[number] = len(lengths)
            engine.waiting.extend(Running(group=number, prompt=prompt, length=length) for length in lengths)
        for one in engine.step():
            left[one.group] -= 1
            if not left[one.group]:
                del left[one.group]
                admission.leave(claim, each)
        if engine.seconds >= next_look:
            next_look += 1.0
            now = Look(use=engine.use(), held=admission.load.sequences, ended=admission.ended)
            admission.hold_to(rule(admission.bound, admission.places.sequences, now, before))
            fewest, before = min(fewest, admission.bound), now
    tokens = sum(map(sum, groups))
    return Outcome(tokens_per_s=tokens / engine.seconds, preemptions=engine.preemptions, fewest_places=fewest)
