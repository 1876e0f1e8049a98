"""Selected jobs become one batch: renumbered, with their seeds, lineage, width and digest."""

from __future__ import annotations

from typing import Any

from rollstream.producer.replay.asked import Sampling
from rollstream.producer.replay.plan import new_batch_id, plan
from rollstream.producer.replay.selection import Place, Selected
from rollstream.schemas import Batch, Origin
from tests.support.replaying import CONFIG


def selected(groups: range, entry_id: str = "1-0", **changes: Any) -> Selected:
    fields: dict[str, Any] = {
        "place": Place(stream="jobs", entry_id=entry_id),
        "origin": Origin(batch_id="b", entry_id=entry_id),
        "groups": groups,
        "num_groups": 100,
        "prompt_tokens": 3,
        "adapter": None,
        "lineage": (),
        "sha256": b"",
    }
    asked: dict[str, Any] = {"config": CONFIG, "longest_prompt": 2, "seed_offset": 0}
    asked |= {name: changes.pop(name) for name in asked if name in changes}
    return Selected(**{"asked": Sampling(**asked)} | fields | changes)


def planned(*jobs: Selected) -> tuple[list[tuple[int, int, int]], list[str]]:
    """(first group in the original, first group, seed offset) of each job of the only batch; the reasons to skip."""
    replays, skipped = plan(jobs, {}, lambda _: "new", 1.0)
    placed = [p for replay in replays for p in replay.jobs]
    return [(p.selected.groups.start, p.first_group, p.changes["seed_offset"]) for p in placed], [
        skip.reason for skip in skipped
    ]


def test_jobs_are_renumbered_in_the_order_of_their_groups_and_keep_their_seeds() -> None:
    jobs = selected(range(90, 93), "1-0", seed_offset=4), selected(range(10, 14), "9-0", seed_offset=4)
    assert planned(*jobs) == ([(10, 0, 14), (90, 4, 90)], [])


def test_of_a_batch_id_that_was_used_twice_the_newest_content_is_replayed() -> None:
    other = selected(range(4), "1-0", config=CONFIG.model_copy(update={"seed": 6}))
    same = selected(range(4), "2-0")
    newest = selected(range(4), "10-0")
    jobs, reasons = planned(other, same, newest)
    assert jobs == [(0, 0, 0)]
    assert reasons == [
        "is of another batch of the same id than 10-0: select it by --job",
        "has groups of 10-0, which is selected too",
    ]


def test_a_lineage_and_a_seed_offset_stay_within_their_bounds() -> None:
    lineage = (Origin(batch_id="a", entry_id="1-1"),) * 100
    assert planned(selected(range(1), lineage=lineage))[1] == ["was replayed 100 times already"]
    assert planned(selected(range(2**31 - 2, 2**31 - 1), seed_offset=2))[1] == ["its seed offset is out of bounds"]


def test_the_new_prompt_width_is_the_originals_while_that_is_known() -> None:
    original = Batch(batch_id="b", num_groups=9, num_jobs=3, prompt_width=64, config=CONFIG, submitted_at=0.0)
    made = [plan([selected(range(1))], known, str, 1.0)[0][0].batch for known in ({"b": original}, {})]
    assert [batch.prompt_width for batch in made if isinstance(batch, Batch)] == [64, 2]


def test_the_digest_follows_from_the_selection_and_not_from_the_time() -> None:
    one, two = selected(range(1), "1-0"), selected(range(1, 2), "2-0")
    digests = [plan(jobs, {}, str, moment)[0][0].digest for jobs, moment in (((one, two), 1.0), ((two, one), 2.0))]
    assert digests[0] == digests[1]
    changed = selected(range(1, 2), "2-0", sha256=b"other")
    assert plan((one, changed), {}, str, 1.0)[0][0].digest != digests[0]
    assert plan((one,), {}, str, 1.0)[0][0].digest != digests[0]


def test_a_new_batch_id_fits_however_long_the_original_is() -> None:
    long = "x" * 127 + "a", "x" * 127 + "b"
    ids = [new_batch_id(original, "attempt") for original in long]
    assert {len(batch_id) for batch_id in ids} == {128}
    assert len(set(ids)) == 2
    assert ids[0] == new_batch_id(long[0], "attempt") != new_batch_id(long[0], "another")
