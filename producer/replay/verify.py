"""Compare a replay with its original, group by group, as far as the same policy version answered both undisturbed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import partial

import numpy as np

from rollstream.schemas import Batch, ErrorCode, GroupError, GroupResult, GroupScores, Keys
from rollstream.schemas.wire.proofs.probe import TOLERANCES, Tolerance, coarsest

from ..batches.read_answers import AnyAnswer
from ..errors import NoStoredResultError
from ..policies.live_workers import live_reports
from ..redis_io.connection import Connection
from ..scores.handle import handle_of
from .compare_completions import cut_in_one, first_of_completions, resumed
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
    nothing is drawn, so completions that a later delivery went on with are compared too.
    """
    dtypes, pairs = list(dtypes), [(group, stored[group], new, replayed[new]) for group, new in groups]
    allowed = TOLERANCES[coarsest(dtypes)]
    differences: list[Difference] = []
    others: list[Difference] = []
    drawn_again: list[Difference] = []
    cut_once: list[Difference] = []
    for group, before, new_group, after in pairs:
        cut = _cut_in_one(group, new_group, before, after)
        cut_once += cut
        if any(one.sample is None for one in cut):
            continue
        without: dict[int, Difference] = {}
        if not is_greedy and isinstance(before, GroupResult) and isinstance(after, GroupResult):
            without = resumed(group, new_group, before, after)
            drawn_again += without.values()
        difference = _difference(group, new_group, before, after, allowed, without)
        if difference is not None:
            (others if difference.what == POLICY_VERSION else differences).append(difference)
    rows = [(a, b) for _, a, _, b in pairs if isinstance(a, GroupScores) and isinstance(b, GroupScores)]
    results = [before for _, before, _, _ in pairs if isinstance(before, GroupResult)]
    return Comparison(
        groups=len(pairs),
        completions=sum(result.lengths.shape[0] for result in results),
        tokens=sum(_tokens(before) for _, before, _, _ in pairs),
        differing_groups=len(differences),
        first=differences[0] if differences else None,
        resumed=len(drawn_again),
        first_resumed=drawn_again[0] if drawn_again else None,
        cut_once=len(cut_once),
        first_cut_once=cut_once[0] if cut_once else None,
        other_versions=len(others),
        first_other=others[0] if others else None,
        apart=Apart.of((log_probs_apart(*both) for both in rows), dtypes),
    )


def _cut_in_one(group: int, new_group: int, before: AnyAnswer, after: AnyAnswer) -> list[Difference]:
    """What only one of both runs has because the other had enough: samples, or the whole group."""
    if isinstance(before, GroupResult) and isinstance(after, GroupResult):
        return cut_in_one(group, new_group, before, after)
    cut = [isinstance(one, GroupError) and one.code == ErrorCode.NOT_NEEDED for one in (before, after)]
    if cut[0] == cut[1]:
        return []
    stored, replayed = ("cut" if was_cut else _kind(one) for was_cut, one in zip(cut, (before, after), strict=True))
    return [Difference(group=group, new_group=new_group, what=CUT, stored=stored, replayed=replayed)]


def _tokens(answer: AnyAnswer) -> int:
    if isinstance(answer, GroupResult):
        return int(answer.lengths.numpy().sum(dtype=np.int64))
    return len(answer) if isinstance(answer, GroupScores) else 0


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
