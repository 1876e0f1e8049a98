"""A short day of `make autoscale`, its plan, and the proof that its audit sees what it is there to see."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.support.report import read, write
from rollstream import Client, GenerationConfig
from tests.autoscaling.day import HOURS, TOKENS_PER_S, Arrival, Day, load, make_day
from tests.autoscaling.fixed import as_good, waits
from tests.autoscaling.report import AUTOSCALED, report_of
from tests.autoscaling.rules import Direction, Rules
from tests.autoscaling.run import main
from tests.autoscaling.trial import Outcome, audit, run_day
from tests.support.answers import Answering, result_of
from tests.support.faults import Queue

DAY_S = 4.0
HOUR_S = 3600.0
FAST = Direction(stabilization_s=0.5 * HOUR_S, percent=100, pods=4, period_s=HOUR_S)
RULES = Rules(target=2 * HOUR_S, most=2, cooldown_s=3 * HOUR_S, up=FAST, down=FAST)
"""As slow beside the short day as the real ones beside a real one."""


def short_day() -> Day:
    """Work for two workers from the second hour on, one of which is killed, and nothing after the eleventh."""
    arrivals = [Arrival(hour=2 + number / 4, batch_id=f"day-{number}", tokens=10) for number in range(16)]
    return Day(arrivals=arrivals, samples=4, interruptions=[6.5])


def test_a_short_day_scales_from_nothing_and_back_and_loses_and_doubles_nothing(tmp_path: Path) -> None:
    found = run_day(short_day(), DAY_S, RULES, fixed=None, seed=1, lease_s=1.0)

    assert found.problems == []
    assert (len(found.waits), found.groups, found.killed) == (16, 32, 1)
    assert found.looks[0].wanted == found.looks[-1].wanted == 0
    assert found.most >= 2
    assert found.gpu_s > 0
    write(tmp_path / "numbers.json", [report_of(found, None, None, {})])
    (report,) = read(tmp_path / "numbers.json")
    assert report.scenarios[0].details[AUTOSCALED]["problems"] == []


@pytest.mark.large
def test_the_command_compares_with_a_fixed_fleet_and_draws_the_day(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "day.png"

    code = main(["--seed", "3", "--day-s", "40", "--most", "4", "--plot", str(picture), "--json", str(tmp_path / "x")])

    assert code == 0, capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_seed_decides_the_day() -> None:
    assert make_day(1, 60, 3) == make_day(1, 60, 3)
    assert make_day(1, 60, 3) != make_day(2, 60, 3)


def test_the_load_of_a_day_is_what_its_batches_ask_for() -> None:
    day = make_day(0, 3000, 0)
    hours = [step / 100 for step in range(100 * HOURS)]
    wanted = sum(map(load, hours)) / 100

    work_s = sum(8 * arrival.tokens / (4 * TOKENS_PER_S) for arrival in day.arrivals)

    assert work_s * HOURS / 3000 == pytest.approx(wanted, rel=0.05)
    assert not [arrival for arrival in day.arrivals if load(arrival.hour) == 0]


def test_a_batch_waits_for_a_free_worker() -> None:
    day = Day(arrivals=[Arrival(hour=hour, batch_id="", tokens=40) for hour in (0, 0, 12)], samples=4, interruptions=[])

    assert waits(day, 24, 1) == [2.0, 4.0, 2.0]
    assert waits(day, 24, 2) == [1.0, 2.0, 1.0]
    assert [as_good(day, 24, p95) for p95 in (4.0, 2.0, 1.0)] == [1, 2, 4]


def test_the_audit_sees_a_group_that_is_missing_and_a_job_that_is_pending(
    redis_url: str, policy: str, queue: Queue
) -> None:
    day = Day(arrivals=[Arrival(hour=0, batch_id="day-0", tokens=1)], samples=4, interruptions=[])
    with Client(redis_url, policy=policy) as client:
        client.submit([[5], [6]], None, GenerationConfig(max_new_tokens=1), batch_id="day-0", prompts_per_job=1)
    answering = Answering(redis_url, policy, "day-0", 2)
    answering.publish(result_of(0, [5], [[10]], "day-0"))
    outcome = Outcome()

    audit(queue, day, outcome)

    assert outcome.groups == 1
    assert "groups [0]" in outcome.problems[0]
