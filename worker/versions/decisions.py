"""What to serve and what to prepare, of what the two streams say. Pure; all lists have the newest first."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import takewhile

from rollstream.schemas.wire.policies import Activation

from .announced import Announced, lost


def of_these(announced: Iterable[Announced], activations: Mapping[int, Activation]) -> dict[int, Activation]:
    """Activations without those of a former stream: one whose number has other content now, and all before it."""
    there = [(one, activations[one.version]) for one in announced if one.version in activations]
    former = max((one.version for one, said in there if not said.is_of(one.version, one.sha256)), default=0)
    return {version: said for version, said in activations.items() if version > former}


def is_active(one: Announced, activations: Collection[int]) -> bool:
    """Whether it is, or was, the one to serve: announced as `at_once`, or activated later; see `of_these`."""
    return one.is_at_once or one.version in activations


def active(announced: Sequence[Announced], activations: Collection[int]) -> tuple[Announced, ...]:
    """All active versions. `announced` goes back to one of them at least, or holds the whole stream.

    The last activation counts even if the versions stream has its announcement no more, so that it can be refused by
    name. One above every announcement belongs to a former versions stream and says nothing.
    """
    found = [one for one in announced if is_active(one, activations)]
    last, newest = max(activations, default=0), found[0].version if found else 0
    if announced and newest < last < announced[0].version:
        return (lost(last), *found)
    return tuple(found)


def started_again(active: Sequence[Announced], served: Announced) -> bool:
    """Whether the streams are others than those of `served`: they end before it, or have other content or a probe that
    it has not passed under its number.
    """
    there = [one for one in active if one.version == served.version]
    return bool(active) and (active[0].version < served.version or not all(one.is_like(served) for one in there))


def to_serve(active: Sequence[Announced], served: Announced, *, adrift: bool) -> list[Announced]:
    """Versions to serve instead of `served`, the best first: newer ones, or if `adrift` any."""
    return list(takewhile(lambda one: not one.is_like(served) and (adrift or one.version > served.version), active))


def to_prepare(announced: Sequence[Announced], active: Sequence[Announced], served: Announced) -> list[Announced]:
    """Versions that may be activated later, the best first: newer than all active ones."""
    newest = active[0].version if active else 0
    return [one for one in announced if one.version > newest and not one.is_like(served)]
