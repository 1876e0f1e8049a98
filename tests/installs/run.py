"""`make test-installs`: the wheel and the sdist of dist/ in a clean environment of each Python of this machine.

torch comes with them, as `pip install rollstream` brings it: its CPU build where there is one (tools/cpu_torch.sh),
else that of the package index, with gigabytes of CUDA. The environments are removed again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from rollstream.version import __version__
from tests.support.worker_process import ROOT

PYTHONS = ("3.11", "3.12", "3.13")
WANTED = {
    "version": __version__,
    "metadata": __version__,
    "commands": [f"rollstream {__version__}", f"rollstream-worker {__version__}"],
    "lean": True,
    "demo": True,
    "shape": [2, 6],
}


class InstallFailedError(Exception):
    """Raised when an environment cannot be made, or something in it is not as it must be."""


def run(*command: str | Path, cwd: Path, may_fail: bool = False) -> str | None:
    """What a program printed; None if it failed and may. Raises `InstallFailedError`."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "ROLLSTREAM_"))}
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=ours, capture_output=True, text=True, check=False, timeout=1800
    )
    if done.returncode == 0:
        return done.stdout
    if may_fail:
        return None
    raise InstallFailedError(
        f"{' '.join(map(str, command))[:200]}: {done.returncode}\n{(done.stdout + done.stderr)[-3000:]}"
    )


def interpreter(version: str) -> Path | None:
    """A Python of that version on PATH, or one that pyenv has."""
    for name in (f"python{version}", *Path.home().glob(f".pyenv/versions/{version}.*/bin/python")):
        found = shutil.which(str(name))
        if (
            found
            and subprocess.run([found, "-c", "import venv, ensurepip"], check=False, capture_output=True).returncode
            == 0
        ):
            return Path(found)
    return None


def try_all(python: Path, wheel: Path, sdist: Path, url: str) -> Iterator[str]:
    """A line for the wheel, then one for the sdist in its place. Raises `InstallFailedError`."""
    with tempfile.TemporaryDirectory(prefix="rollstream-install-") as place:
        empty, environment = Path(place, "empty"), Path(place, "environment")
        empty.mkdir()
        run(python, "-m", "venv", environment, cwd=empty)
        own = environment / "bin" / "python"
        run("bash", ROOT / "tools" / "cpu_torch.sh", own, "--quiet", "--no-compile", cwd=empty, may_fail=True)
        for package, how in ((wheel, []), (sdist, ["--force-reinstall", "--no-deps"])):
            began = time.monotonic()
            run(own, "-m", "pip", "install", "--quiet", "--no-compile", *how, package, cwd=empty)
            run(own, "-m", "pip", "check", cwd=empty)
            told = tried(own, empty, url)
            took = time.monotonic() - began
            yield f"Python {told['python']}, torch {told['torch']}, {package.name}: well, {took:.0f} s"


def tried(python: Path, empty: Path, url: str) -> dict[str, Any]:
    """What an environment told. Raises `InstallFailedError` where it is not what it must be."""
    told = run(python, shutil.copy(ROOT / "tests" / "installs" / "inside.py", empty), url, cwd=empty)
    found: dict[str, Any] = json.loads((told or "").splitlines()[-1])
    if wrong := {name: found[name] for name, value in WANTED.items() if found[name] != value}:
        raise InstallFailedError(f"{python}: {wrong}, expected {WANTED}")
    return found


def main() -> None:
    """Try every Python, and say which was missing."""
    parser = argparse.ArgumentParser(prog="python -m tests.installs.run", description=__doc__)
    parser.add_argument("--dist", type=Path, default=ROOT / "dist", help="What `make release` made.")
    parser.add_argument("--python", action="append", help=f"3.12, say; repeatable. Default: {', '.join(PYTHONS)}.")
    asked = parser.parse_args()
    (wheel,), (sdist,) = (list(asked.dist.resolve().glob(kind)) for kind in ("*.whl", "*.tar.gz"))
    missing = []
    with EmbeddedRedis() as redis:
        for version in asked.python or PYTHONS:
            if python := interpreter(version):
                for line in try_all(python, wheel, sdist, redis.url):
                    sys.stdout.write(f"{line}\n")
                    sys.stdout.flush()
            else:
                missing.append(version)
    if missing:
        sys.exit(f"no Python {', '.join(missing)} on this machine: nothing was tried with it")


if __name__ == "__main__":
    try:
        main()
    except InstallFailedError as error:
        sys.exit(f"test-installs: {error}")
