"""Who may look: the token, and sessions made from it that a browser keeps in a cookie. Pure but for the clock."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address

from .errors import WebSetupError

SESSION_S = 7 * 24 * 3600.0
FEWEST, MOST = 16, 1024
"""Characters that a token may have."""
_MOST_NETWORKS = 1000
ADVICE = "make one with `(umask 077; head -c 32 /dev/urandom | base64 > web-token)` and give --token-file web-token"


def check_token(where: str, token: str) -> str:
    """Return `token`. Raises `WebSetupError`, which does not show it."""
    if not (FEWEST <= len(token) <= MOST and token.isascii() and token.isprintable() and " " not in token):
        rule = f"a token has {FEWEST} to {MOST} printable ASCII characters and no blanks"
        raise WebSetupError(where, f"{rule}; {ADVICE}")
    return token


class Sessions:
    """Sessions of one token, which nobody keeps: each says until when it holds, and is signed with the token.

    So they outlive a restart of the server, and a new token ends all of them. Without a token everybody may look.
    """

    def __init__(self, *, token: str | None, clock: Callable[[], float] = time.time) -> None:
        self._token = None if token is None else hashlib.sha256(token.encode()).digest()
        self._clock = clock

    @property
    def are_asked_for(self) -> bool:
        """Whether there is a token."""
        return self._token is not None

    def is_token(self, given: str) -> bool:
        """Whether it is the token. Takes the same time for every wrong one."""
        found = hashlib.sha256(given.encode("utf-8", "replace")).digest()
        return self._token is not None and hmac.compare_digest(found, self._token)

    def begin(self) -> str:
        """A new session: until when, something random, and the signature."""
        what = f"{self._clock() + SESSION_S:.0f}.{secrets.token_hex(16)}"
        return f"{what}.{self._signed('session', what)}"

    def is_valid(self, session: str) -> bool:
        """Whether `begin` made it with this token, and its time has not passed."""
        what, _, signature = session.rpartition(".")
        until = what.partition(".")[0]
        if not hmac.compare_digest(signature.encode("utf-8", "replace"), self._signed("session", what).encode()):
            return False
        return self._token is not None and float(until) > self._clock()

    def csrf(self, session: str) -> str:
        """What a page of this session must send with each action. Another site cannot read it."""
        return self._signed("csrf", session)

    def is_csrf(self, given: str, session: str) -> bool:
        """Whether `csrf` gave it for this session."""
        return hmac.compare_digest(given.encode("utf-8", "replace"), self.csrf(session).encode())

    def _signed(self, purpose: str, text: str) -> str:
        told = f"rollstream web {purpose} {text}".encode("utf-8", "replace")
        return hmac.new(self._token or secrets.token_bytes(32), told, hashlib.sha256).hexdigest()


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
