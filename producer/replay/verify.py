"""Compare a replay with its original, group by group, as far as the same policy version answered both undisturbed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from rollstream.schemas import Batch, ErrorCode, GroupError, GroupResult, GroupScores, Keys
from rollstream.schemas.wire.proofs.probe import TOLERANCES, Tolerance, coarsest

from ..batches.read_answers import AnyAnswer
from ..errors import NoStoredResultError
from ..policies.live_workers import live_reports
from ..redis_io.connection import Connection
from ..scores.handle import handle_of
from .compare_completions import Resumed, cut_in_one, first_of_completions, resumed, tokens_in_both
from .compare_rows import first_of_rows, log_probs_apart
from .differences import CUT, POLICY_VERSION, Apart, Comparison, Difference
from .plan import Replay


def compare(
    groups: Iterable[tuple[int, int]],
    stored: Mapping[int, AnyAnswer],
    replayed: Mapping[int, AnyAnswer],
    dtypes: Iterable[str] = (),
    *,
    is_greedy: bool = False,
) -> Comparison:
    """Compare answers. `groups` has pairs (group of the original, group of the replay).

    `dtypes`: in which the workers compute; scores may be as far apart as engines of the coarsest are. `is_greedy`:
    nothing is drawn, so completions that a later delivery went on with are compared to their ends.
    """
    dtypes, pairs = list(dtypes), [(group, stored[group], new, replayed[new]) for group, new in groups]
    found = _Found(allowed=TOLERANCES[coarsest(dtypes)], is_greedy=is_greedy)
    for group, before, new_group, after in pairs:
        found.add(group, new_group, before, after)
    rows = [(a, b) for _, a, _, b in pairs if isinstance(a, GroupScores) and isinstance(b, GroupScores)]
    return Comparison(
        groups=len(pairs),
        completions=found.completions,
        tokens=found.tokens,
        differing_groups=len(found.differences),
        first=_first(found.differences),
        resumed=len(found.drawn_again),
        first_resumed=_first(found.drawn_again),
        resumed_apart=len(found.earlier),
        first_resumed_apart=_first(found.earlier),
        cut_once=len(found.cut_once),
        first_cut_once=_first(found.cut_once),
        other_versions=len(found.others),
        first_other=_first(found.others),
        apart=Apart.of((log_probs_apart(*both) for both in rows), dtypes),
    )


@dataclass(slots=True, kw_only=True)
class _Found:
    """What the groups that were compared so far have shown."""

    allowed: Tolerance
    is_greedy: bool
    completions: int = 0
    tokens: int = 0
    differences: list[Difference] = field(default_factory=list)
    others: list[Difference] = field(default_factory=list)
    drawn_again: list[Difference] = field(default_factory=list)
    earlier: list[Difference] = field(default_factory=list)
    cut_once: list[Difference] = field(default_factory=list)

    def add(self, group: int, new_group: int, before: AnyAnswer, after: AnyAnswer) -> None:
        """Compare one group."""
        cut = _cut_in_one(group, new_group, before, after)
        self.cut_once += cut
        if any(one.sample is None for one in cut):
            return
        gone_on = Resumed()
        if not self.is_greedy and isinstance(before, GroupResult) and isinstance(after, GroupResult):
            gone_on = resumed(group, new_group, before, after)
        difference = _difference(group, new_group, before, after, self.allowed, gone_on.compared)
        is_other = difference is not None and difference.what == POLICY_VERSION
        if difference is not None:
            (self.others if is_other else self.differences).append(difference)
        self.drawn_again += gone_on.drawn_again
        self.earlier += [] if is_other else gone_on.earlier
        if not is_other:
            self._count(before, after, difference, gone_on)

    def _count(self, before: AnyAnswer, after: AnyAnswer, difference: Difference | None, gone_on: Resumed) -> None:
        if isinstance(before, GroupScores) and isinstance(after, GroupScores):
            self.tokens += len(log_probs_apart(before, after))
        if not isinstance(before, GroupResult) or not isinstance(after, GroupResult):
            return
        if difference is None or difference.sample is not None:  # else the groups are not of the same samples
            compared = [*tokens_in_both(before, after, gone_on.compared), *filter(None, gone_on.compared.values())]
            self.completions += len(compared)
            self.tokens += sum(compared)


def _first(found: Sequence[Difference]) -> Difference | None:
    return found[0] if found else None


def _cut_in_one(group: int, new_group: int, before: AnyAnswer, after: AnyAnswer) -> list[Difference]:
    """What only one of both runs has because the other had enough: samples, or the whole group."""
    if isinstance(before, GroupResult) and isinstance(after, GroupResult):
        return cut_in_one(group, new_group, before, after)
    cut = [isinstance(one, GroupError) and one.code == ErrorCode.NOT_NEEDED for one in (before, after)]
    if cut[0] == cut[1]:
        return []
    stored, replayed = ("cut" if was_cut else _kind(one) for was_cut, one in zip(cut, (before, after), strict=True))
    return [Difference(group=group, new_group=new_group, what=CUT, stored=stored, replayed=replayed)]


def _difference(
    group: int,
    new_group: int,
    before: AnyAnswer,
    after: AnyAnswer,
    allowed: Tolerance,
    without: Collection[int],
) -> Difference | None:
    if isinstance(before, GroupResult) and isinstance(after, GroupResult):
        return first_of_completions(group, new_group, before, after, without)
    if isinstance(before, GroupScores) and isinstance(after, GroupScores):
        return first_of_rows(group, new_group, before, after, allowed)
    what, stored, replayed = "answer", _kind(before), _kind(after)
    if isinstance(before, GroupError) and isinstance(after, GroupError):
        what, stored, replayed = "error code", before.code, after.code
    if stored == replayed:
        return None
    return Difference(group=group, new_group=new_group, what=what, stored=stored, replayed=replayed)


def _kind(answer: AnyAnswer) -> str:
    if isinstance(answer, GroupError):
        return f"error {answer.code}"
    return "scores" if isinstance(answer, GroupScores) else "completions"


def expected_to_differ(replay: Replay) -> bool:
    """Whether the batch samples without a seed, so that two runs need not agree."""
    if not isinstance(replay.batch, Batch):
        return False
    config = replay.batch.config
    return config.seed is None and config.temperature > 0 and config.num_beams == 1


async def stored_answers(connection: Connection, keys: Keys, replay: Replay) -> dict[int, AnyAnswer]:
    """The original's answers to the replayed groups, by the original's group numbers. Does not wait for any.

    Raises `NoStoredResultError` when some are gone or not there yet, `UnreadableResultError`,
    `RedisUnavailableError`.
    """
    wanted = {group for group, _ in replay.groups()}
    if replay.original is None:
        raise NoStoredResultError(replay.original_id, len(wanted), len(wanted))
    answers = await handle_of(connection, keys, replay.original).finished()
    found: dict[int, AnyAnswer] = {answer.group: answer for answer in answers if answer.group in wanted}
    if len(found) < len(wanted):
        raise NoStoredResultError(replay.original_id, len(wanted) - len(found), len(wanted))
    return found


async def verify(
    connection: Connection, keys: Keys, replay: Replay, stored: Mapping[int, AnyAnswer], timeout: float | None
) -> Comparison:
    """Wait for the replay, with a progress bar on stderr, and compare it with `stored`.

    How closely scores must agree follows from the workers that gave them, as far as these still report: a worker that
    does not counts as one of float32. Raises `ResultTimeoutError`, and what waiting for any batch raises.
    """
    replayed = await handle_of(connection, keys, replay.batch).wait(timeout, progress=True)
    reports = await connection.call("read the workers' dtypes", partial(live_reports, keys=keys))
    names = {answer.worker for answer in (*stored.values(), *replayed.values())}
    dtypes = [reports[name].dtype for name in names if name in reports]
    is_greedy = isinstance(replay.batch, Batch) and replay.batch.config.temperature == 0
    return compare(replay.groups(), stored, replayed, dtypes, is_greedy=is_greedy)
