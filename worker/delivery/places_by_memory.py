"""How many sequences may have places, by how full the engine's KV cache is. Pure.

vLLM takes in a sequence when its prompt fits, and looks no further: when all have grown and the cache is full, it takes
the memory of the newest away and computes it again later. Sequences that wait for a place in the worker cost nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from ..requests import KvUse

ROOM = 0.95
"""Below this share of the cache there is room for more sequences."""
GROWTH = 4
"""How much faster than the sequences that end the places grow, in an empty cache: as in a network's slow start, each
one that has ended shows that the whole life of one more fits."""
SPARE = 0.4
"""So many more sequences than fitted are left in the engine, as a share of those that ran: they fill what others leave.

With fewer, an engine that computes prompts fast lost more by running fewer sequences than by computing some again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What was seen at one moment."""

    use: KvUse
    held: int
    """Sequences with a place, also those that have ended while others of their group run."""
    ended: int
    """Sequences that have run to their ends and given their places back since the worker started."""


def places_after(places: int, most: int, now: Look, before: Look) -> int:
    """The places from now on, 1 to `most`; `places` until now.

    With nothing to run it is `most` again: the next jobs may be shorter. In a burst of equally young sequences many fit
    that will not fit when they are older; they are let in, since they make more tokens meanwhile than it costs to
    compute some of them again.
    """
    if not now.held:
        return most
    if now.use.preemptions > before.use.preemptions:
        fit = now.held - now.use.waiting + int(SPARE * now.use.running)
        return max(1, min(places, fit))
    if now.use.used >= ROOM or now.held < places:
        return places
    free = 1 - now.use.used / ROOM
    return min(most, places + ceil(GROWTH * free * (now.ended - before.ended)))
