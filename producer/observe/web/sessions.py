"""Who may look: the token, and sessions made from it that a browser keeps in a cookie. Pure but for the clock."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable

from ...http.tokens import digest_of, is_token

SESSION_S = 7 * 24 * 3600.0


class Sessions:
    """Sessions of one token, which nobody keeps: each says until when it holds, and is signed with the token.

    So they outlive a restart of the server, and a new token ends all of them. Without a token everybody may look.
    """

    def __init__(self, *, token: str | None, clock: Callable[[], float] = time.time) -> None:
        self._token = None if token is None else digest_of(token)
        self._clock = clock

    @property
    def are_asked_for(self) -> bool:
        """Whether there is a token."""
        return self._token is not None

    def is_token(self, given: str) -> bool:
        """Whether it is the token. Takes the same time for every wrong one."""
        return is_token(given, self._token)

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
