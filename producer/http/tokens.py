"""The token that lets a request in, and how often a wrong one may be tried. Pure but for the clock."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address

from .errors import ServerSetupError

FEWEST, MOST = 16, 1024
"""Characters that a token may have."""
_MOST_NETWORKS = 1000
ADVICE = "make one with `(umask 077; head -c 32 /dev/urandom | base64 > web-token)` and give --token-file web-token"


def check_token(where: str, token: str) -> str:
    """Return `token`. Raises `ServerSetupError`, which does not show it."""
    if not (FEWEST <= len(token) <= MOST and token.isascii() and token.isprintable() and " " not in token):
        rule = f"a token has {FEWEST} to {MOST} printable ASCII characters and no blanks"
        raise ServerSetupError(where, f"{rule}; {ADVICE}")
    return token


def digest_of(token: str) -> bytes:
    """What a server keeps of its token, and makes of one that is given."""
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()


def is_token(given: str, kept: bytes | None) -> bool:
    """Whether it is the token of this digest. Takes the same time for every wrong one."""
    return kept is not None and hmac.compare_digest(digest_of(given), kept)


class WrongTries:
    """Wrong tokens of late, by address; an IPv6 network of 64 bits counts as one. Bounded in number."""

    def __init__(self, *, most: int = 5, within_s: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._within_s = within_s
        self._clock = clock
        self._wrong: OrderedDict[str, list[float]] = OrderedDict()

    def wait_s(self, address: str) -> float:
        """Seconds until this address may try again; 0 if it may now."""
        recent = self._recent(network_of(address))
        return 0.0 if len(recent) < self._most else max(0.0, recent[0] + self._within_s - self._clock())

    def count(self, address: str) -> None:
        """Note a wrong try."""
        network = network_of(address)
        self._wrong[network] = [*self._recent(network), self._clock()][-self._most :]
        self._wrong.move_to_end(network)
        if len(self._wrong) > _MOST_NETWORKS:
            self._wrong.popitem(last=False)

    def _recent(self, network: str) -> list[float]:
        since = self._clock() - self._within_s
        return [at for at in self._wrong.get(network, ()) if at > since]


def network_of(address: str) -> str:
    """What counts as one address: an IPv6 network of 64 bits, any other address alone."""
    try:
        known = ip_address(address)
    except ValueError:
        return address
    if isinstance(known, IPv6Address) and known.ipv4_mapped is None:
        return known.exploded[:19]
    return str(known)
