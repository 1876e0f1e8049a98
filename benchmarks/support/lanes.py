"""A trainer that has so many batches under way all the time, counts the tokens that reach it, and is audited."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio import Redis

from rollstream import AsyncClient
from rollstream.schemas import GenerationConfig, GroupError, GroupResult, Keys, decode
from rollstream.schemas.wire.entry_fields import KIND, PAYLOAD

_LOOK_S = 0.05
_GROUP = b"group"


@dataclass(frozen=True, kw_only=True)
class Load:
    """What the trainer asks for."""

    batches: int
    """Under way all the time."""
    prompts: int
    n: int
    new_tokens: int
    prompt_len: int = 64
    vocabulary: int = 500

    @property
    def config(self) -> GenerationConfig:
        """Completions of one length, with log-probs as a trainer needs them."""
        return GenerationConfig(max_new_tokens=self.new_tokens, num_return_sequences=self.n, ignore_eos=True)

    def draw(self, seed: int) -> list[list[int]]:
        """The prompts of a batch."""
        drawn = random.Random(seed)
        return [[drawn.randrange(5, self.vocabulary) for _ in range(self.prompt_len)] for _ in range(self.prompts)]


@dataclass(kw_only=True)
class Trainer:
    """Keeps batches under way. `tokens` and `resumed` grow as groups are read; `keep` is set between windows."""

    client: AsyncClient
    load: Load
    keep: float = 0.0
    tokens: int = 0
    resumed: int = 0
    """Tokens of these that a delivery did not generate, because an earlier one had."""
    ending: bool = False
    errors: Counter[str] = field(default_factory=Counter)
    answered: list[str] = field(default_factory=list)
    """The batches of which every group was read."""
    under_way: set[int] = field(default_factory=set)
    """The numbers of the others."""
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    async def run(self) -> None:
        """Until `ending`, and all batches are answered. Cancelled earlier, it leaves the rest `under_way`."""
        async with asyncio.TaskGroup() as lanes:
            for _ in range(self.load.batches):
                lanes.create_task(self._lane())

    async def renewed(self) -> None:
        """Wait until all batches of now are answered: those under way then were submitted later."""
        while len(self.under_way) < self.load.batches:  # noqa: ASYNC110 - the lanes begin
            await asyncio.sleep(_LOOK_S)
        mine = set(self.under_way)
        while mine & self.under_way:  # noqa: ASYNC110 - many lanes change it
            await asyncio.sleep(_LOOK_S)

    def told(self) -> str:
        """Which batches are under way."""
        return "not answered: batches " + (", ".join(f"b{one}" for one in sorted(self.under_way)) or "none")

    async def _lane(self) -> None:
        while not self.ending:
            number = next(self._numbers)
            self.under_way.add(number)
            handle = await self.client.submit(
                self.load.draw(number), None, self.load.config, batch_id=f"b{number}", keep_partials=self.keep
            )
            async for group in handle.groups():
                self._count(group)
            self.answered.append(handle.batch_id)
            self.under_way.discard(number)

    def _count(self, group: GroupResult | GroupError) -> None:
        if isinstance(group, GroupError):
            self.errors[group.code] += 1
            return
        self.tokens += int(group.lengths.numpy().sum())
        if group.resumed_at is not None:
            self.resumed += int(group.resumed_at.numpy().sum())


async def audited(redis: Redis, keys: Keys, trainer: Trainer) -> dict[str, int]:
    """Read every entry of every answered batch's results again: each group is there once, with all its tokens."""
    load = trainer.load
    found: Counter[str] = Counter()
    for batch_id in trainer.answered:
        entries: Any = await redis.xrange(keys.results(batch_id))
        payloads = [fields[PAYLOAD] for _, fields in entries if fields[KIND] == _GROUP]
        groups = [decode(payload, GroupResult) for payload in payloads]
        counted = Counter(group.group for group in groups)
        found["groups"] += load.prompts
        found["lost"] += load.prompts - len(counted)
        found["twice"] += sum(counted.values()) - len(counted)
        found["wrong"] += sum(not _is_whole(group, load) for group in groups)
    found["unanswered"] = len(trainer.under_way)
    return {name: found[name] for name in ("groups", "lost", "twice", "wrong", "unanswered")}


def _is_whole(group: GroupResult, load: Load) -> bool:
    lengths = group.lengths.numpy()
    spans = [sum(tokens for _, tokens in of_one) for of_one in group.version_spans]
    return len(lengths) == load.n and bool((lengths == load.new_tokens).all()) and spans == lengths.tolist()
