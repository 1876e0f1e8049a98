"""One picture of `top` fits any terminal, keeps what matters most, and says since when Redis is away."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rollstream.producer.cli.views.frame import Down, Seen, frame, rates, staleness
from rollstream.producer.observe.fleet import Fleet
from rollstream.schemas.hashes.history import Minute
from tests.support.watching.fitting import LONG, UNBROKEN, WIDTHS, check, shown
from tests.support.watching.fleets import (
    READ_AT,
    batch_of,
    busy_fleet,
    fleet_of,
    letter_of,
    queue_of,
    version_of,
    worker_of,
)


def seen(fleet: Fleet | None, **changes: object) -> Seen:
    return Seen(policy="math-7b", redis="redis://10.0.0.5:6379/0", fleet=fleet, fleet_age_s=0.3, **changes)  # type: ignore[arg-type] # as given


def long_fleet() -> Fleet:
    """Long names and huge numbers everywhere."""
    names = tuple(f"{LONG}-{i}" for i in range(4))
    return replace(
        busy_fleet(),
        queues=tuple(queue_of(p, waiting=10**9, pending=10**6, oldest_waiting_s=1e7) for p in range(64)),
        workers=tuple(worker_of(name, model=f"/models/{LONG}", policy_version=10**14) for name in names),
        batches=tuple(batch_of(f"step-41.replay-{name}", 10**9, 10**8, left_s=1e7) for name in names),
        versions=(version_of(10**14, location=f"/checkpoints/{LONG}", served_by=names),),
        letters=(letter_of("DataError: " + "a long reason " * 30, batch_id=LONG),),
    )


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("fleet", [fleet_of(), busy_fleet(), busy_fleet(60, 30), long_fleet()], ids="0bml")
def test_no_picture_is_larger_than_its_terminal(fleet: Fleet, width: int) -> None:
    reference = shown(frame(seen(fleet), UNBROKEN, None, "q ends")).splitlines()
    for height in (None, 50, 24, 10, 1):
        lines = frame(seen(fleet), width, height, "q ends")
        assert height is None or len(lines) <= height
        check([line.plain for line in lines], width, reference)


def test_a_picture_has_a_section_for_everything() -> None:
    text = shown(frame(seen(busy_fleet()), 140, None, "q ends"))
    for told in (
        "math-7b: 2 of 6 workers serve version 7", "▄", "last hour, best minute ",
        "12 jobs waiting (the oldest 34.0 s)",
        "workers (6)", "late since 3.2 s", "gone since 41.0 s", "paused (memory,adapter cache)", "7 (loads 8)",
        "███▊░░░░ 120/256", "batches under way (5 of 17)", "partitions (2)", "policy versions", "1 worker ",
        "versions behind", "16 or more", "too_long 12", "dead letters (14)", "TooManyDeliveriesError", "q ends",
        "Redis 812 MiB (79 %)", "31 commands",
    ):  # fmt: skip
        assert told in text, told


def test_workers_that_need_a_look_come_first_and_the_rest_is_counted() -> None:
    lines = shown(frame(seen(busy_fleet(60)), 80, 24)).splitlines()
    rows = lines[lines.index("workers (60)") + 2 :]
    assert rows[0].split()[1] != "serving"
    assert any(line.startswith("and ") and line.endswith(" more") for line in rows)


def test_sections_that_matter_less_go_first_on_a_low_terminal() -> None:
    low, lower = shown(frame(seen(busy_fleet()), 80, 20)), shown(frame(seen(busy_fleet()), 80, 12))
    assert "batches under way" in low
    assert "versions behind" not in low
    assert "workers (6)" in lower
    assert "batches under way" not in lower


def test_while_redis_is_away_the_last_values_stay() -> None:
    down = Down(since=READ_AT, for_s=12.0, why="cannot read the fleet: Redis at redis://x: refused\x1b[2J")
    text = shown(frame(seen(busy_fleet(), down=down), 100, 40))
    assert text.startswith("Redis does not answer since ")
    assert ", for 12.0 s. What follows is 0.3 s old.\ncannot read the fleet: Redis at redis://x: refused" in text
    assert "workers (6)" in text
    assert "\x1b" not in text
    assert shown(frame(seen(None, down=down), 100, 40)).startswith("Redis does not answer since ")


def test_before_the_first_reading_it_says_what_it_reads() -> None:
    assert "math-7b: reading Redis at redis://10.0.0.5:6379/0" in shown(frame(seen(None), 100, 40))


def test_the_minute_under_way_counts_as_far_as_it_has_come() -> None:
    last = int(READ_AT // 60)
    fleet = fleet_of(
        minutes=((last - 60, Minute(tokens=999)), (last - 1, Minute(tokens=600)), (last, Minute(tokens=300)))
    )
    assert rates(fleet) == [*[0.0] * 58, 10.0, 10.0]
    early = fleet_of(read_at=READ_AT - 28, minutes=((last - 1, Minute(tokens=600)), (last, Minute(tokens=300))))
    assert rates(early)[-1] == 10.0


def test_staleness_is_counted_in_classes_up_to_the_last_that_has_any() -> None:
    def found(staleness: dict[int, int]) -> dict[str, int]:
        return staleness_of(Minute(staleness=staleness))

    def staleness_of(minute: Minute) -> dict[str, int]:
        return staleness(fleet_of(minutes=((1, minute), (2, minute))))

    assert found({}) == {}
    assert found({0: 3}) == {"0": 6}
    assert found({0: 1, 5: 2, 7: 1}) == {"0": 2, "1": 0, "2": 0, "3": 0, "4 to 7": 6}
    assert list(found({64: 1})) == ["0", "1", "2", "3", "4 to 7", "8 to 15", "16 or more"]
