"""The benchmarks start without vLLM and say what they do; what they count is what there is."""

from __future__ import annotations

import asyncio
import runpy
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

import benchmarks
from benchmarks import cpu, gpu
from benchmarks.engine import start
from benchmarks.engine.engine_metrics import differences
from benchmarks.engine.memory import PAYLOAD, Peaks, Size, one_run
from benchmarks.peers.arms import arms
from benchmarks.queue import alone, scale
from benchmarks.queue.alone import Bench, measure
from benchmarks.queue.crowd import Load
from benchmarks.queue.redis_limit import Size as GroupSize
from benchmarks.queue.redis_limit import gpus_a_core, mbit_a_gpu, replay
from benchmarks.support import plots, report
from benchmarks.support.fleet import Fleet
from benchmarks.support.models import Model
from benchmarks.support.report import Report, Scenario, percentiles
from benchmarks.support.turns import VARIABLE, Turn, my_turn
from benchmarks.support.workload import SCENARIOS, workloads
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from rollstream.producer.demo.redis_server import CHOSEN
from tests.support.worker_process import until, wait_for

ROOT = Path(__file__).parents[2]
FOLDER = Path(benchmarks.__file__).parent
COMMANDS = sorted(
    ".".join(("benchmarks", *path.relative_to(FOLDER).with_suffix("").parts))
    for path in FOLDER.rglob("*.py")
    if "def main()" in path.read_text() and path.parent.name != "peers"
)


@pytest.fixture
def without_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "vllm"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "vllm", None)


@pytest.mark.parametrize("name", [*COMMANDS, "benchmarks.peers", "benchmarks.peers.takeovers"])
@pytest.mark.usefixtures("without_vllm")
def test_every_benchmark_says_what_it_does_without_vllm(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(SystemExit) as end:
        runpy.run_module(name, run_name="__main__")
    assert end.value.code == 0
    assert f"usage: python -m {name}" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_the_scripts_that_run_all_name_only_commands_that_exist(name: str, tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "all.json")] if name == "gpu" else []
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--dry-run", *out],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    started = {line.split()[2] for line in done.stdout.splitlines() if line.startswith("python -m benchmarks.")}
    assert started
    assert started <= set(COMMANDS)
    assert {
        "benchmarks.engine.saturation",
        "benchmarks.engine.latency",
        "benchmarks.engine.swap",
        "benchmarks.http.serve",
    } <= started


def test_a_gpu_stage_that_fails_hangs_or_lacks_a_package_is_noted_and_the_next_has_its_turn(tmp_path: Path) -> None:
    command = partial(gpu.Stage, turns=False)
    stages = [
        command("lacking", ("this",), needs="no_such_package"),
        command("failing", ("no_such_module",)),
        command("fine", ("this",)),
        command("hanging", ("http.server", "0")),
        command("late", ("this",)),
    ]
    failed = gpu.run_all([[stage] for stage in stages], tmp_path, tmp_path / "all.json", budget_s=5)

    (overview,) = report.read(tmp_path / "all.json")
    codes = {scenario.name: scenario.details["exit_code"] for scenario in overview.scenarios}
    assert codes == {"lacking": None, "failing": 1, "fine": 0, "hanging": 124, "late": None}
    assert failed == 4


async def test_a_benchmark_waits_for_its_own_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, other = Turn(tmp_path / "mine"), Turn(tmp_path / "other")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "mine"))
    waiting = asyncio.create_task(my_turn())
    await until(partial(asyncio.to_thread, mine.is_asked_for))
    other.let_go()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(waiting), 0.3)

    mine.let_go()

    await asyncio.wait_for(waiting, 10)
    assert not other.is_asked_for()


def test_every_benchmark_that_needs_no_gpu_is_run_by_make_bench() -> None:
    not_measured = {f"benchmarks.{name}" for name in ("cpu", "gpu", "support.models", "support.show")}
    ten_minutes_each = {f"benchmarks.queue.{name}" for name in ("exporter_memory", "page_memory")}
    gpus = {f"benchmarks.engine.{name}" for name in ("rounds", "routing", "score_memory", "step_profile")}
    left_out = not_measured | ten_minutes_each | gpus
    assert {arguments[0] for arguments in cpu.STAGES.values()} == set(COMMANDS) - left_out


def test_a_cpu_stage_that_fails_or_hangs_is_counted_and_the_next_has_its_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "hangs.py").write_text("import time; time.sleep(60)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(cpu, "STAGES", {"hanging": ("hangs",), "failing": ("no_such_module",), "fine": ("this",)})
    monkeypatch.setattr(cpu, "LIMIT_S", 5)

    assert cpu.run_all(["hanging", "failing", "fine"], tmp_path) == 2

    (overview,) = report.read(tmp_path / "cpu.json")
    assert [scenario.details["exit_code"] for scenario in overview.scenarios] == [124, 1, 0]
    said = capsys.readouterr().out
    assert "== failing: python -m no_such_module --out" in said
    assert said.endswith("failed: hanging, failing\n")


def test_the_scenarios_that_help_names_are_those_that_there_are(tmp_path: Path) -> None:
    tiny = Model("tiny", tmp_path, 512, {}, 1024)
    assert tuple(workloads(tiny)) == SCENARIOS


@pytest.mark.parametrize(("count", "p50", "p95", "p99"), [(1, 0, 0, 0), (30, 15, 28, 29), (100, 50, 95, 99)])
def test_a_percentile_is_a_value_that_was_seen(count: int, p50: int, p95: int, p99: int) -> None:
    assert percentiles([float(value) for value in reversed(range(count))]) == {
        "p50": p50, "p95": p95, "p99": p99, "count": count,
    }  # fmt: skip


def test_a_tiny_memory_run_measures_every_part(tmp_path: Path) -> None:
    peaks = Peaks(Size(prompts=4, prompt_len=16, n=2, new_tokens=64))

    with EmbeddedRedis() as server, Fleet(server.url, tmp_path) as fleet:
        one_run(server.url, fleet, "tiny", peaks)

    processes, in_redis = peaks.memory().medians, peaks.redis().medians
    assert 10 < processes["tensors of the RolloutBatch"] * 2**20 / 1024 < 100  # KiB: 8 rows of 80 columns
    assert processes["worker"] > 10
    assert processes["client"] >= processes["client, submitted"] > 10
    assert PAYLOAD < in_redis["results"] < in_redis["all, sealed"]
    assert in_redis["jobs, a prompt token"] > 4


async def test_a_tiny_scale_run_counts_what_reached_the_trainer_and_what_it_cost_every_node(tmp_path: Path) -> None:
    load = Load(tokens_per_s=4_000, sequences=8, prompts=8, prompt_len=16, n=2, new_tokens=64)

    one = await scale.grow(scale.Target(4, cluster=True), [1, 2], load, 0.6, tmp_path)

    (first, _) = found = scale.rates([one], load).scenarios
    assert [(scenario.x, scenario.runs[scale.LINEAR]) for scenario in found] == [(1, [4_000]), (2, [8_000])]
    assert 0 < first.medians[one.target.name] < 5 * 4_000
    a_group = first.details[one.target.name]["a_group"]
    assert a_group["calls"]["evalsha"] >= 1
    assert a_group["bytes_in"] > 2 * 64 * PAYLOAD * 0.4
    assert {"trainer", "workers", "node 1", "node 2", "node 3"} == set(one.cores().scenarios[0].runs)
    assert one.idle["workers"] == 2


def test_what_a_group_costs_redis_is_measured_and_says_how_many_gpus_it_feeds() -> None:
    with EmbeddedRedis() as server:
        reached = replay(server, GroupSize(2, 64, 16), 0.3, appendonly=False)

    parts = reached.work.parts()
    assert reached.groups > 50
    assert reached.payload > 2 * 64 * PAYLOAD
    assert reached.work.bytes_out > reached.groups * reached.payload
    assert sum(parts.values()) == pytest.approx(1e6 * reached.work.cpu_s)
    assert min(parts["commands in scripts"], parts["Lua"], parts["other commands"]) > 0
    assert gpus_a_core(tokens_per_s=40_000, tokens_a_group=4_000, cpu_us_a_group=200) == pytest.approx(500)
    assert mbit_a_gpu(tokens_per_s=40_000, tokens_a_group=4_000, bytes_a_group=25_000) == pytest.approx(2)


def test_a_tiny_queue_run_of_ours_counts_every_job(tmp_path: Path) -> None:
    known = arms(4, 16)
    with EmbeddedRedis() as server:
        found = measure(Bench(server, tmp_path, tmp_path, 4), [known["rollstream x8"]], 64, [1], 1)

    rates = {scenario.name: scenario.medians for scenario in found if scenario.unit == "jobs/s"}
    assert set(rates) == {"enqueue", "drain, 1 worker", "end to end, 1 worker"}
    assert all(rate > 0 for medians in rates.values() for rate in medians.values())


def test_the_queue_benchmark_refuses_a_redis_that_it_cannot_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "redis-server"
    old.write_text("#!/bin/sh\necho 'Redis server v=6.2.14 sha=0'\n")
    old.chmod(0o755)
    monkeypatch.setenv(CHOSEN, str(old))
    monkeypatch.setattr(sys, "argv", ["queue_alone", "--jobs", "8"])

    with pytest.raises(SystemExit) as end:
        alone.main()

    assert end.value.code == 2
    assert f"{old} is older than Redis 7" in capsys.readouterr().err


def test_the_queue_benchmark_says_how_to_get_the_peers_that_are_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(alone, "redis_version", lambda _binary: (7, 0))
    monkeypatch.setattr(sys, "argv", ["queue_alone", "--jobs", "8", "--peers", str(tmp_path)])

    with pytest.raises(SystemExit) as end:
        alone.main()

    told = capsys.readouterr().err
    assert end.value.code == 2
    assert "streaq" in told
    assert f"`python -m benchmarks.peers {tmp_path}` puts them" in told


def test_scenarios_along_an_axis_are_drawn_as_lines_and_parts_of_a_benchmark_as_one_chart(tmp_path: Path) -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    points = [Scenario(f"{x} workers", "", "tok/s", "linear", {"linear": [x], "one": [x / 2]}, x=x) for x in (1, 8)]
    parts = [Report("bars", [Scenario(name, "", "s", "a", {"a": [1.0]})]) for name in ("one", "two", "three")]
    other_unit = Report("bars", [Scenario("lost", "", "tokens", "a", {"a": [10_000.0]})])

    plots.plot([Report("lines", points), *parts, other_unit], tmp_path / "plot.png")

    lines, barred, of_other_unit = pyplot.gcf().axes
    assert [axis.get_ylabel() for axis in (lines, barred, of_other_unit)] == ["tok/s", "s", "tokens"]
    assert [list(line.get_xdata()) for line in lines.lines] == [[1, 8], [1, 8]]
    assert (len(barred.lines), len(barred.patches)) == (0, 3)


def test_runs_are_compared_in_pairs_too_where_there_are_pairs() -> None:
    slower_half_way = Scenario("one", "", "tok/s", "a", {"a": [4.0, 2.0, 1.0], "b": [8.0, 4.0, 1.0], "c": [1.0]})

    assert slower_half_way.paired == {"b": 2.0}
    assert slower_half_way.ratios == {"b": 2.0, "c": 0.5}
    assert Scenario("none", "", "s", "", {"a": [1.0]}).paired == {}


def test_a_report_survives_its_file(tmp_path: Path) -> None:
    scenario = Scenario("one", "about", "s", "a", {"a": [1.0, 2.0, 3.0], "b": [4.0]}, {"more": 1})
    written = Report("test", [scenario], {"model": "tiny"})
    report.write(tmp_path / "file.json", [written])
    (read,) = report.read(tmp_path / "file.json")
    assert read == written
    assert (read.scenarios[0].medians, read.scenarios[0].ratios) == ({"a": 2.0, "b": 4.0}, {"b": 2.0})


def test_a_file_is_counted_as_often_as_it_is_opened(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_text("some")
    with start.Opened(file) as opened:
        for times in (1, 2, 3):
            file.read_text()
            wait_for(partial(_reached, opened, times), 30, lambda: f"{opened.times} times")


def _reached(opened: start.Opened, times: int) -> bool:
    return opened.times == times


def test_what_importtime_says_is_added_up_by_package() -> None:
    found = start.imported(
        "import time: self [us] | cumulative | imported package\n"
        "import time:      1000 |       1000 |     numpy.core\n"
        "import time:      2000 |       3000 |   numpy\n"
        "import time:       500 |       3500 | producer\n"
    )
    assert found == {"modules": 3, "heavy": ["numpy"], "top_ms": {"numpy": 3.0, "producer": 0.5}}


def test_the_difference_of_an_arm_is_that_of_its_pairs() -> None:
    base = [100.0, 200.0, 50.0, 400.0, 80.0]
    runs = {"off": base, "same": base, "more": [101.0, 204.0, 51.5, 416.0, 84.0]}

    found = differences(runs)

    assert found["same"] == {"percent": 0, "half_interval": 0}
    assert found["more"] == {"percent": 3, "half_interval": pytest.approx(1.96, abs=0.02)}  # 1 to 5 %


def test_a_report_names_no_folder_of_its_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--out", "/home/me/runs/a.json", "--model=/models/x", "--redis", "redis://127.0.0.1:6379/0", "a/b", "1/2"]
    monkeypatch.setattr("sys.argv", ["program", *words])

    told = report.command_line().split()[-len(words) :]

    assert told == ["--out", "a.json", "--model=x", "--redis", "redis://127.0.0.1:6379/0", "a/b", "1/2"]
