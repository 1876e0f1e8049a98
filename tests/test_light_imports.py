"""What a trainer imports and what an operator types is there at once: nothing heavy is loaded until it is asked for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COMMAND = "sys.argv = [{name!r}, *{arguments!r}]\nfrom {package}.__main__ import main\nsys.exit(main())"
ENGINES = {"torch", "vllm", "transformers", "safetensors", "tokenizers", "msgspec"}
"""None of them starts in less than half a second."""
AT_THE_END = (
    "import atexit, json, sys\n"
    "atexit.register(lambda: print('modules', json.dumps(sorted({name.partition('.')[0] for name in sys.modules}))))\n"
)


def packages(code: str) -> set[str]:
    """Top-level packages that are loaded once `code` has run in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", AT_THE_END + code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    kind, _, names = done.stdout.splitlines()[-1].partition(" ")
    assert kind == "modules", done.stdout
    return set(json.loads(names))


def typed(name: str, package: str, *arguments: str) -> str:
    return COMMAND.format(name=name, package=package, arguments=arguments)


def test_importing_the_producer_imports_nothing_but_itself() -> None:
    third_party = packages("import producer") - set(sys.stdlib_module_names) - packages("pass")
    assert third_party == {"producer"}


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("from producer import AsyncClient, Client, RolloutBatch, GenerationConfig", id="client"),
        pytest.param(typed("rollstream", "producer", "--help"), id="rollstream --help"),
        pytest.param(typed("rollstream", "producer", "submit", "--help"), id="rollstream submit --help"),
    ],
)
def test_what_only_submits_loads_no_tensors_no_engine_and_no_worker(code: str) -> None:
    assert packages(code) & {*ENGINES, "matplotlib", "pandas", "scipy", "structlog", "worker"} == set()


@pytest.mark.parametrize("arguments", [["--help"], ["--policy", "p", "--engine", "stub", "--print-config"]], ids=str)
def test_a_worker_that_starts_no_engine_loads_none(arguments: list[str]) -> None:
    assert packages(typed("rollstream-worker", "worker", *arguments)) & {*ENGINES, "producer"} == set()
