"""What completions of turns say, by digests: a turn that says something else is read once, not each time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

MOST_DIGESTS = 2**16
"""About 10 MB."""


class KnownReplies:
    """Digests of replies by batch. Beyond `most` of them, those of the batch that was asked for longest ago go."""

    def __init__(self, *, most: int = MOST_DIGESTS) -> None:
        self._most = most
        self._held = 0
        self._digests: OrderedDict[str, frozenset[bytes]] = OrderedDict()

    def may_say(self, batch_id: str, digest: bytes) -> bool:
        """Whether a completion of the batch has this digest, or nobody knows."""
        known = self._digests.get(batch_id)
        if known is None:
            return True
        self._digests.move_to_end(batch_id)
        return digest in known

    def put(self, batch_id: str, digests: Iterable[bytes]) -> None:
        """All that the completions of a finished batch may be read as."""
        self._held -= len(self._digests.pop(batch_id, ()))
        self._digests[batch_id] = frozenset(digests)
        self._held += len(self._digests[batch_id])
        while self._held > self._most and len(self._digests) > 1:
            self._held -= len(self._digests.popitem(last=False)[1])
