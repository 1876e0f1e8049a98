"""The benchmarks start without vLLM and say what they do; what they count is what there is."""

from __future__ import annotations

import runpy
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

import benchmarks
from benchmarks import cpu, report, start
from benchmarks.fleet import Fleet
from benchmarks.memory import PAYLOAD, Peaks, Size, one_run
from benchmarks.report import Report, Scenario
from producer.embedded import EmbeddedRedis
from tests.worker_process import wait_for

ROOT = Path(__file__).parent.parent
COMMANDS = sorted(
    f"benchmarks.{path.stem}"
    for path in Path(benchmarks.__file__).parent.glob("*.py")
    if "def main()" in path.read_text()
)


@pytest.fixture
def without_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "vllm"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "vllm", None)


@pytest.mark.parametrize("name", COMMANDS)
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


def test_every_benchmark_that_needs_no_gpu_is_run_by_make_bench() -> None:
    not_measured = {"benchmarks.cpu", "benchmarks.gpu", "benchmarks.models", "benchmarks.report"}
    assert {arguments[0] for arguments in cpu.STAGES.values()} == set(COMMANDS) - not_measured


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
