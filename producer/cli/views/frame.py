"""One picture of `rollstream top`: all sections of a reading, cut to the size of a terminal."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.text import Text

from ...observe.fleet import Fleet, FleetLetter, FleetVersion
from ...operations.queue_state import age
from .batches import UNDER_WAY, batch_state, batch_table
from .charts import about, amount, histogram, percent, sparkline
from .fit import Cell, Column, Laid, Lines, facts, one_line, shares, table, wrapped
from .headline import Level, headline, jobs_of, many, notes
from .status import queue_table
from .workers import live_table

_HOUR_MIN = 60
_STALE = (0, 1, 2, 3, 4, 8, 16)
"""Where the bars of the staleness begin, in versions."""
_MOST_OF_HEAD = 3
"""Lines that one sentence above the tables may have."""
_NARROW = 60
_ROOM_FOR_GAPS = 24
_FEWEST_ROWS = 4
"""So many lines workers and batches have before there is room for other sections."""
_NARROW = 60
_ROOM_FOR_GAPS = 24
_FEWEST_ROWS = 4
"""So many lines workers and batches have before there is room for other sections."""
_LEAST_OF_MINUTE_S = 5.0
"""Before that the rate of the minute under way says little."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Down:
    """Redis does not answer."""

    since: float
    """Unix seconds by this machine's clock."""
    for_s: float
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What `top` knows at one moment. `fleet` is None until Redis was read once."""

    policy: str
    redis: str
    """Without its password."""
    fleet: Fleet | None = None
    fleet_age_s: float = 0.0
    down: Down | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Section:
    title: Text
    body: Laid
    rank: int
    """Sections of the highest rank are left out first where the terminal is low."""

    @property
    def height(self) -> int:
        return 1 + len(self.body.lines())

    @property
    def least(self) -> int:
        """With fewer lines it would not be worth its title."""
        row = max(map(len, self.body.rows[:1]), default=0) + 1
        return min(self.height, 1 + len(self.body.head) + (max(row, _FEWEST_ROWS) if self.rank <= 1 else row))


def frame(seen: Seen, width: int, height: int | None, hint: str = "") -> Lines:
    """At most `height` lines of at most `width` places; without a height nothing is left out. `hint` ends it."""
    lines = _head(seen, width)
    if seen.fleet is not None:
        foot = [one_line(Text(_foot(seen, seen.fleet, hint), style="dim"), width)]
        room = None if height is None else height - len(lines) - len(foot)
        lines += _cut(list(_sections(seen.fleet, width, height)), room)
        lines += foot
    elif hint:
        lines.append(one_line(Text(hint, style="dim"), width))
    return lines if height is None else lines[:height]


def _head(seen: Seen, width: int) -> Lines:
    """The state of the fleet in words, then tokens and jobs."""
    lines = []
    if seen.down is not None:
        then = f" What follows is {age(seen.fleet_age_s)} old." if seen.fleet else ""
        at = time.strftime("%H:%M:%S", time.localtime(seen.down.since))
        lines += _sentence(Level.BAD, f"Redis does not answer since {at}, for {age(seen.down.for_s)}.{then}", width)
        lines += _sentence(None, seen.down.why, width)
    if seen.fleet is None:
        return lines or _sentence(Level.CALM, f"{seen.policy}: reading Redis at {seen.redis} ...", width)
    level, told = headline(seen.fleet)
    lines += _sentence(level if seen.down is None else None, f"{seen.policy}: {told}", width)
    for level, told in notes(seen.fleet):
        lines += _sentence(level, told, width)
    return [*lines, *_rates(seen.fleet, width), *_work(seen.fleet, width)]


def _sentence(level: Level | None, told: str, width: int) -> Lines:
    lines = wrapped(Text(told, style=level or "none"), width)
    if len(lines) > _MOST_OF_HEAD:
        lines[_MOST_OF_HEAD - 1] = one_line(f"{lines[_MOST_OF_HEAD - 1].plain} …", width)
    return lines[:_MOST_OF_HEAD]


def rates(fleet: Fleet) -> list[float]:
    """Tokens per second of each minute of the last hour, oldest first; the minute under way as far as it has come."""
    last = int(fleet.read_at // 60)
    tokens = {number: minute.tokens for number, minute in fleet.minutes}
    seconds = fleet.read_at - 60 * last
    found = [tokens.get(number, 0) / 60 for number in range(last - _HOUR_MIN + 1, last)]
    return [*found, tokens.get(last, 0) / seconds] if seconds >= _LEAST_OF_MINUTE_S else found


def _rates(fleet: Fleet, width: int) -> Lines:
    told = f"{amount(fleet.tokens_per_s)} tokens/s "
    hour = rates(fleet)
    if not any(hour):
        return [one_line(f"{told}now, none in the last hour", width)]
    ends = f" last hour, best minute {amount(max(hour))}" if width > _NARROW else " 1 h"
    places = max(0, min(len(hour), width - len(told) - len(ends)))
    return [one_line(Text.assemble((told, "bold"), (sparkline(hour, places), "cyan"), (ends, "dim")), width)]


def _work(fleet: Fleet, width: int) -> Lines:
    jobs = jobs_of(fleet)
    waiting = "an unknown number of jobs waiting" if jobs.waiting is None else f"{many(jobs.waiting, 'job')} waiting"
    told = [waiting + ("" if jobs.oldest_s is None else f" (the oldest {age(jobs.oldest_s)})")]
    told += [f"{amount(jobs.running)} running", *([f"{amount(jobs.parked)} parked"] if jobs.parked else [])]
    told += [f"{many(fleet.open_groups, 'group')} open"]
    told += [] if not fleet.backlog_s else [f"done in about {about(fleet.backlog_s)}"]
    return facts(told, width)


def _sections(fleet: Fleet, width: int, most: int | None) -> Iterator[_Section]:
    yield _section(f"workers ({len(fleet.workers)})", live_table(fleet.workers, width, most), 0)
    going = [batch for batch in fleet.batches if batch_state(batch) == UNDER_WAY]
    title = f"batches under way ({len(going)} of {amount(fleet.num_batches)})"
    yield _section(title, batch_table(going, width, most, states=False), 1)
    if len(fleet.queues) > 1:
        busy = sorted(fleet.queues, key=lambda queue: -(queue.pending + (queue.waiting or 0)))
        yield _section(f"partitions ({len(busy)})", queue_table(busy, width, most), 5)
    if fleet.versions:
        yield _section("policy versions", _versions(fleet.versions, width), 3)
    if bars := histogram(staleness(fleet), width):
        yield _section("versions behind, in the last hour", Laid(head=[], rows=[[bar] for bar in bars]), 6)
    if told := _errors(fleet):
        yield _section("errors of the last hour", Laid(head=[], rows=[[line] for line in facts(told, width)]), 2)
    if fleet.num_letters:
        yield _section(f"dead letters ({amount(fleet.num_letters)})", _letters(fleet.letters, width), 4)


def _section(title: str, body: Laid, rank: int) -> _Section:
    return _Section(title=Text(title, style="bold"), body=body, rank=rank)


def _cut(sections: Sequence[_Section], room: int | None) -> Lines:
    """Sections one below the other in at most `room` lines, with blank lines between them if there are enough."""
    shown = list(sections)
    if room is None:
        return [line for one in shown for line in (Text(), one.title, *one.body.lines())]
    gap = 1 if room > _ROOM_FOR_GAPS else 0
    least = [gap + one.least for one in shown]
    while shown and sum(least) > room:
        worst = max(range(len(shown)), key=lambda i: shown[i].rank)
        del shown[worst], least[worst]
    more = shares([gap + one.height - few for one, few in zip(shown, least, strict=True)], room - sum(least))
    lines = Lines()
    for one, few, extra in zip(shown, least, more, strict=True):
        lines += [*[Text()] * gap, one.title, *one.body.lines(few + extra - gap - 1)]
    return lines


_VERSION_COLUMNS = (
    Column(title="version", right=True, said="version {}"),
    Column(title="age", rank=2, right=True, said="announced {} ago"),
    Column(title="served by", right=True, said="served by {}"),
    Column(title="refused by", rank=1, right=True, said="refused by {}"),
    Column(title="source", rank=3, said="{}"),
    Column(title="location", rank=4, least=20, said="{}"),
)


def _versions(versions: Sequence[FleetVersion], width: int) -> Laid:
    return table(_VERSION_COLUMNS, map(_version, versions), width)


def _version(one: FleetVersion) -> list[Cell]:
    refused: Cell = Text(many(len(one.refused_by), "worker"), style="red") if one.refused_by else "-"
    served = many(len(one.served_by), "worker") if one.served_by else "nobody"
    if one.waits_for:
        served = f"not active, {len(one.prepared_by)} prepared"
    return [str(one.version), age(one.announced_s_ago), served, refused, one.source, one.location]


def staleness(fleet: Fleet) -> dict[str, int]:
    """Groups of the last hour by how many versions behind they were, in a few classes up to the last that has any."""
    counts = Counter[int]()
    for _, minute in fleet.minutes:
        for behind, groups in minute.staleness.items():
            counts[max(start for start in _STALE if start <= behind)] += groups
    ends = [*(start - 1 for start in _STALE[1:]), None]
    names = {
        start: f"{start} or more" if end is None else f"{start}" if end == start else f"{start} to {end}"
        for start, end in zip(_STALE, ends, strict=True)
    }
    last = max((start for start, groups in counts.items() if groups), default=-1)
    return {names[start]: counts[start] for start in _STALE if start <= last}


def _errors(fleet: Fleet) -> list[str]:
    counts = Counter[str]()
    for _, minute in fleet.minutes:
        counts.update(minute.errors)
    groups = sum(minute.groups for _, minute in fleet.minutes) + sum(counts.values())
    told = [f"{code} {amount(count)}" for code, count in counts.most_common(12) if count]
    share = percent(sum(counts.values()), groups)
    return [*told, f"{share} of {many(groups, 'answer')}"] if told else []


_LETTER_COLUMNS = (
    Column(title="entry", rank=1, least=18, said="{}"),
    Column(title="age", right=True, said="{} ago"),
    Column(title="batch", rank=2, least=16, said="batch {}"),
    Column(title="deliveries", rank=3, right=True, said="{} deliveries"),
    Column(title="error", least=24, keeps_start=True, said="{}"),
)


def _letters(letters: Sequence[FleetLetter], width: int) -> Laid:
    return table(_LETTER_COLUMNS, map(_letter, letters), width)


def _letter(one: FleetLetter) -> list[Cell]:
    entry = f"{one.partition}/{one.letter_id}" if one.partition else one.letter_id
    return [entry, age(one.buried_s_ago), one.batch_id, str(one.deliveries), one.error]


def _foot(seen: Seen, fleet: Fleet, hint: str) -> str:
    memory = ""
    if fleet.redis_memory:
        used = f"{fleet.redis_memory / 2**20:,.0f} MiB"
        limit = fleet.redis_memory_limit
        memory = f"Redis {used}" + (f" ({percent(fleet.redis_memory, limit)})" if limit else "")
        memory += f", partials {fleet.partials_bytes / 2**20:,.0f} MiB" if fleet.partials_bytes else ""
    read = f"read {age(seen.fleet_age_s)} ago in {1000 * fleet.took_s:,.0f} ms, {fleet.commands} commands"
    return " · ".join(filter(None, [hint, memory, read]))
