"""What Sentinels said: read from raw replies, and which of several answers is to be believed. Pure.

A Sentinel names the server that gets our password, so one alone is not believed against others, whatever it says.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace

from redis import exceptions

from .urls import Address

DISSENT_S = 30.0
"""How long a Sentinel may name another primary than the others before that is a warning: a failover takes less."""
_HOST = re.compile(r"[A-Za-z0-9_.:%-]{1,253}")
_LONGEST_NUMBER = 19
_MOST_SERVICES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Primary:
    """The primary, as a Sentinel names it."""

    address: Address
    epoch: int
    """Grows with each failover of the service: two failovers may end at the first address."""
    told_by: str
    """Host and port of that Sentinel."""
    is_down: bool = False

    def __str__(self) -> str:
        return "{}:{}".format(*self.address)

    def is_other_than(self, before: Primary) -> bool:
        """Whether there was a failover between the two."""
        return (self.address, self.epoch) != (before.address, before.epoch)


def primary_in(reply: object, told_by: str) -> Primary:
    """What a reply to SENTINEL MASTER says. Raises `ResponseError` for what no Sentinel says."""
    facts = _facts(reply)
    host, flags = facts.get("ip", ""), facts.get("flags", "")
    port, epoch = _number(facts.get("port", "")), _number(facts.get("config-epoch", ""))
    if not _HOST.fullmatch(host):
        raise exceptions.ResponseError("it names no address")
    if port is None or not 0 < port < 65536:
        raise exceptions.ResponseError("it names no port")
    if epoch is None or not flags:
        raise exceptions.ResponseError("it does not say how its service is")
    is_down = not {"s_down", "o_down"}.isdisjoint(flags.split(","))
    return Primary(address=(host, port), epoch=epoch, told_by=told_by, is_down=is_down)


def services_in(reply: object) -> list[str]:
    """The services that a reply to SENTINEL MASTERS names. Raises `ResponseError` for what no Sentinel says."""
    if not isinstance(reply, list):
        raise exceptions.ResponseError("it is no list")
    return [facts["name"] for facts in map(_facts, reply[:_MOST_SERVICES]) if facts.get("name")]


def _facts(reply: object) -> dict[str, str]:
    """Names and values, from a list of both in turn (RESP 2) or a map (RESP 3). What is no text is left out."""
    pairs: Iterable[tuple[object, object]]
    if isinstance(reply, dict):
        pairs = reply.items()
    elif isinstance(reply, list) and len(reply) % 2 == 0:
        pairs = zip(reply[::2], reply[1::2], strict=True)
    else:
        raise exceptions.ResponseError("it answers as no Sentinel does")
    return {_text(name): _text(value) for name, value in pairs if _text(name)}


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return value if isinstance(value, str) else ""


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _LONGEST_NUMBER else None


def is_settled(told: Sequence[Primary], asked: int) -> bool:
    """Whether more than half of all that are asked have said the same, so that no further answer changes anything."""
    return 2 * len(_largest(told, _state)) > asked


def believed(told: Sequence[Primary], asked: int) -> Primary | None:
    """The primary that more than half of those that answered name; None if they contradict each other.

    Of fewer than half of all that were asked, all must name the same.
    """
    naming = _largest(told, _state)
    if 2 * len(naming) <= asked:
        naming = _largest(told, _address)
        is_most = 2 * len(told) > asked and 2 * len(naming) > len(told)
        if not naming or (len(naming) < len(told) and not is_most):
            return None
    # A liar that names the right server cannot make each answer look like a failover by a high epoch.
    epoch = min(each.epoch for each in naming)
    return replace(min(naming, key=lambda each: each.is_down), epoch=epoch)


def _largest(told: Sequence[Primary], by: Callable[[Primary], Hashable]) -> list[Primary]:
    groups: defaultdict[Hashable, list[Primary]] = defaultdict(list)
    for each in told:
        groups[by(each)].append(each)
    return max(groups.values(), key=len, default=[])


def _state(told: Primary) -> Hashable:
    return told.address, told.epoch


def _address(told: Primary) -> Hashable:
    return told.address


def named_apart(told: Iterable[Primary]) -> str:
    """Who names which primary, for people."""
    return ", ".join(f"{each.told_by} names {each}" for each in sorted(told, key=lambda each: each.told_by))


class Dissent:
    """Notes which Sentinels name another primary than the one that is believed, and since when."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}
        self._warned: set[str] = set()

    def is_lasting(self, told: Primary, is_other: bool, now: float) -> bool:
        """Whether this one has named another for longer than a failover takes; true once, until it agrees again."""
        if not is_other:
            self._since.pop(told.told_by, None)
            self._warned.discard(told.told_by)
            return False
        since = self._since.setdefault(told.told_by, now)
        if now - since < DISSENT_S or told.told_by in self._warned:
            return False
        self._warned.add(told.told_by)
        return True
