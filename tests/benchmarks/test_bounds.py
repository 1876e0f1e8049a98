"""What waits in a benchmark ends, and says what was missing."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

import pytest

from benchmarks.support.bounds import Limit, TooLongError
from benchmarks.support.fleet import WorkerFailedError
from benchmarks.support.strikes import MOST_ENDS, StruckFleet
from rollstream.producer.demo.embedded_redis import EmbeddedRedis

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("seconds", "limit_s"), [(0.01, 60), (60, 0.01), (60, 0)])
async def test_a_wait_ends_at_its_own_time_and_at_that_of_the_whole_benchmark(seconds: float, limit_s: float) -> None:
    limit = Limit(seconds=limit_s)

    with pytest.raises(TooLongError, match="the moon rises: not within 0 s; it is cloudy"):
        async with limit.within(seconds, "the moon rises", lambda: "it is cloudy"):
            await asyncio.Event().wait()


def test_a_process_that_hangs_beyond_its_limit_ends_and_prints_where_it_is() -> None:
    code = (
        "import time; from benchmarks.support import bounds; bounds.HUNG_S = 0.2\n"
        "def waits_for_ever(): time.sleep(600)\n"
        "bounds.Limit(seconds=0).end_hard_when_hung(); waits_for_ever()"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 1
    assert "in waits_for_ever" in done.stderr


def test_a_worker_that_ends_again_and_again_ends_the_benchmark_with_its_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without_python = {"PYTHONHOME": "/nowhere"}
    with (
        EmbeddedRedis() as server,
        StruckFleet(server=server, policy="p", folder=tmp_path, flags=[], environments=[without_python]) as fleet,
        pytest.raises(WorkerFailedError, match=f"worker 0 exited with 1 by itself, {MOST_ENDS} times"),
    ):
        _tend(fleet)

    assert "'/nowhere'" in capsys.readouterr().err


def _tend(fleet: StruckFleet) -> NoReturn:
    while True:
        fleet.tend()


def test_windows_that_do_not_fit_into_the_limit_are_left_out_and_the_rest_is_written(tmp_path: Path) -> None:
    out = tmp_path / "faults.json"
    flags = "--workers 1 --batches 2 --prompts 2 --n 2 --new-tokens 10 --seconds 500 --peace-seconds 1 --repeats 1"
    arms = "--arms peace faults --limit-s 60"

    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.faults", *flags.split(), *arms.split(), "--out", str(out)],
        cwd=ROOT, capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert "faults: left out" in done.stderr
    (scenario,) = json.loads(out.read_text())["reports"][0]["scenarios"]
    assert list(scenario["runs"]) == ["peace"]
    assert scenario["details"]["audit"]["lost"] == scenario["details"]["audit"]["unanswered"] == 0


def test_what_is_slower_than_the_time_that_is_left_is_left_out_and_said_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    limit = Limit(seconds=100, began=0.0)
    for what, seconds in (("quick", 10.0), ("slow", 50.0)):
        with limit.measuring(what):
            now[0] += seconds

    assert [limit.fits(what) for what in ("quick", "slow", "slow", "new")] == [True, False, False, True]
    assert capsys.readouterr().err.count("slow: left out, 40 s are left") == 1
