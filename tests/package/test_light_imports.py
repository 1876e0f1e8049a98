"""What a trainer imports and what an operator types is there at once: nothing heavy is loaded until it is asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = "sys.argv = [{name!r}, *{arguments!r}]\nfrom {package}.__main__ import main\nsys.exit(main())"
ENGINES = {"torch", "vllm", "transformers", "safetensors", "tokenizers", "msgspec"}
"""None of them starts in less than half a second."""
RICH = {"rich", "typer", "pygments", "structlog"}
"""What only a terminal needs."""
CONSOLE_SCRIPT = """
import json, multiprocessing, sys
from rollstream.worker.__main__ import main

def engine_core():
    print("modules", json.dumps(sorted(sys.modules)))

if __name__ == "__main__":
    multiprocessing.get_context("spawn").Process(target=engine_core).start()
"""
"""As pip writes `rollstream-worker`, but for what it runs: a process of the kind that vLLM starts."""
TRAINER = "from rollstream import AsyncClient, Client, RolloutBatch, GenerationConfig"
AT_THE_END = (
    "import atexit, json, sys\n"
    "atexit.register(lambda: print('modules', json.dumps(sorted(\n"
    "    {name.partition('.')[0] for name in sys.modules}\n"
    "    | {'.'.join(name.split('.')[:2]) for name in sys.modules if name.startswith('rollstream.')}))))\n"
)


def packages(code: str) -> set[str]:
    """Packages that are loaded once `code` has run in a process of its own: of Rollstream's those one below it too."""
    done = subprocess.run(
        [sys.executable, "-c", AT_THE_END + code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    kind, _, names = done.stdout.splitlines()[-1].partition(" ")
    assert kind == "modules", done.stdout
    return set(json.loads(names))


def typed(name: str, package: str, *arguments: str) -> str:
    return COMMAND.format(name=name, package=package, arguments=arguments)


def test_importing_rollstream_imports_nothing_but_itself() -> None:
    third_party = packages("import rollstream") - set(sys.stdlib_module_names) - packages("pass")
    assert third_party == {"rollstream"}


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(TRAINER, id="client"),
        pytest.param(typed("rollstream", "rollstream", "--help"), id="rollstream --help"),
        pytest.param(typed("rollstream", "rollstream", "submit", "--help"), id="rollstream submit --help"),
    ],
)
def test_what_only_submits_loads_no_tensors_no_engine_and_no_worker(code: str) -> None:
    assert packages(code) & {*ENGINES, "matplotlib", "pandas", "scipy", "structlog", "rollstream.worker"} == set()


def test_a_trainer_that_shows_no_progress_loads_nothing_for_a_terminal() -> None:
    assert packages(TRAINER) & RICH == set()


@pytest.mark.parametrize("arguments", [["--help"], ["--policy", "p", "--engine", "stub", "--print-config"]], ids=str)
def test_a_worker_that_starts_no_engine_loads_none(arguments: list[str]) -> None:
    loaded = packages(typed("rollstream-worker", "rollstream.worker", *arguments))
    assert loaded & {*ENGINES, "rollstream.producer"} == set()


def test_the_engines_own_process_loads_nothing_of_the_worker_but_its_first_lines(tmp_path: Path) -> None:
    script = tmp_path / "rollstream-worker"
    script.write_text(CONSOLE_SCRIPT)
    done = subprocess.run(
        [sys.executable, script],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    modules = json.loads(done.stdout.removeprefix("modules "))
    loaded = {name for name in modules if name.partition(".")[0] == "rollstream"}
    assert loaded == {"rollstream", "rollstream.worker", "rollstream.worker.__main__"}
    assert {name.partition(".")[0] for name in modules} & {*ENGINES, *RICH, "numpy", "pydantic", "redis"} == set()
