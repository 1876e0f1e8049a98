"""How much memory this machine, or this container, can still give."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_UNIFIED = "memory.max", "memory.current", ("inactive_file", "active_file")
_OLD = "memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")
"""The files with limit and use of a group, and the fields of its `memory.stat` that count files read earlier."""


def available_bytes() -> int:
    """What can be taken without swapping, or without the container's end; pages of files count as free."""
    return min([_of_machine(), *_of_groups()])


def _of_machine() -> int:
    return _fields(Path("/proc/meminfo")).get("MemAvailable:", 0) * 1024


def _of_groups() -> Iterator[int]:
    """What is left below the limit of each control group that this process is in."""
    for line in _memberships():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            root, files = (_CGROUPS / "memory", _OLD) if controllers else (_CGROUPS, _UNIFIED)
            group = root / path.lstrip("/")
            # In a container the path may be the host's, and its own group is then the root of what it sees.
            for folder in {root, group, *(parent for parent in group.parents if parent.is_relative_to(root))}:
                yield from _left(folder, *files)


def _memberships() -> list[str]:
    return Path("/proc/self/cgroup").read_text().splitlines()


def _left(folder: Path, limit: str, used: str, reclaimable: tuple[str, ...]) -> Iterator[int]:
    try:
        most, now = (folder / limit).read_text().strip(), int((folder / used).read_text())
        counted = _fields(folder / "memory.stat")
    except OSError:
        return  # there is no such group, or it sets no limit
    if most.isdecimal():
        yield int(most) - now + sum(counted.get(name, 0) for name in reclaimable)


def _fields(path: Path) -> dict[str, int]:
    lines = (line.split() for line in path.read_text().splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdecimal()}
