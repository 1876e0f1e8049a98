"""What Redis did between two looks: CPU, bytes, commands, and how much of their time was spent in Lua itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import redis

IN_SCRIPTS = frozenset(
    {"xadd", "xpending", "xack", "xclaim", "xautoclaim", "hget", "hset", "hsetnx", "hincrby", "hexists", "expire"}
)
"""Commands that almost only our scripts send, so that their time is a part of EVAL's and EVALSHA's."""
_SCRIPTS = frozenset({"eval", "evalsha"})


@dataclass(frozen=True)
class Look:
    """One look at one node."""

    cpu_s: float
    main_cpu_s: float
    """CPU seconds of the thread that runs the commands; Redis has few others."""
    bytes_in: int
    bytes_out: int
    commands: dict[str, tuple[int, float]]
    """Calls and microseconds, by name."""


@dataclass(frozen=True)
class Work:
    """The difference between two looks that are `seconds` apart."""

    seconds: float
    cpu_s: float
    main_cpu_s: float
    bytes_in: int
    bytes_out: int
    commands: dict[str, tuple[int, float]]

    @property
    def cores(self) -> float:
        """CPU seconds a second."""
        return self.cpu_s / self.seconds

    def parts(self) -> dict[str, float]:
        """Microseconds of commands within scripts, of Lua around them, of other commands, and of all else.

        The last are reading and writing sockets, parsing, and expiry.
        """
        inner = sum(us for name, (_, us) in self.commands.items() if name in IN_SCRIPTS)
        scripts = sum(us for name, (_, us) in self.commands.items() if name in _SCRIPTS)
        others = sum(us for name, (_, us) in self.commands.items() if name not in IN_SCRIPTS | _SCRIPTS)
        rest = self.cpu_s * 1e6 - scripts - others
        return {"commands in scripts": inner, "Lua": scripts - inner, "other commands": others, "all else": rest}

    def a_group(self, groups: int) -> dict[str, Any]:
        """What one group took, as a share of all traffic, with jobs and reads."""
        parts = {name: round(us / groups, 2) for name, us in self.parts().items()}
        calls = sorted(self.commands.items(), key=lambda item: -item[1][1])
        return {
            "cpu_us": round(1e6 * self.cpu_s / groups, 2),
            "bytes_in": round(self.bytes_in / groups),
            "bytes_out": round(self.bytes_out / groups),
            "cpu_us_by_part": parts,
            "calls": {name: round(count / groups, 3) for name, (count, _) in calls if count >= groups / 1000},
            "command_us": {name: round(us / groups, 2) for name, (_, us) in calls if us >= groups / 100},
        }


def look(client: redis.Redis) -> Look:
    """Look at the node behind this client."""
    info: dict[str, Any] = {**client.info("cpu"), **client.info("stats")}
    stats: Any = client.info("commandstats")
    cpu_s = info["used_cpu_user"] + info["used_cpu_sys"]
    main = info.get("used_cpu_user_main_thread", 0.0) + info.get("used_cpu_sys_main_thread", 0.0)
    calls = {name.removeprefix("cmdstat_"): (int(one["calls"]), float(one["usec"])) for name, one in stats.items()}
    return Look(cpu_s, main or cpu_s, info["total_net_input_bytes"], info["total_net_output_bytes"], calls)


def between(first: Look, last: Look, seconds: float) -> Work:
    """What was done from one look to the other."""
    commands = {
        name: (calls - first.commands.get(name, (0, 0.0))[0], us - first.commands.get(name, (0, 0.0))[1])
        for name, (calls, us) in last.commands.items()
    }
    return Work(
        seconds, last.cpu_s - first.cpu_s, last.main_cpu_s - first.main_cpu_s, last.bytes_in - first.bytes_in,
        last.bytes_out - first.bytes_out, commands,
    )  # fmt: skip


def together(works: Sequence[Work]) -> Work:
    """The sum over all nodes."""
    commands: dict[str, tuple[int, float]] = {}
    for work in works:
        for name, (calls, us) in work.commands.items():
            before = commands.get(name, (0, 0.0))
            commands[name] = (before[0] + calls, before[1] + us)
    return Work(
        works[0].seconds, sum(w.cpu_s for w in works), sum(w.main_cpu_s for w in works),
        sum(w.bytes_in for w in works), sum(w.bytes_out for w in works), commands,
    )  # fmt: skip
