"""Which reply a link loses."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Requests:
    """What a connection sent since the last reply to what it had sent before. A reply may come in pieces."""

    sent: bytearray = field(default_factory=bytearray)
    is_answered: bool = False
    """A piece of the reply has come."""
    is_counted: bool = False
    """A piece of it was what a loss waits for."""

    def add(self, data: bytes) -> None:
        """What passes towards Redis; a new request once the last was answered."""
        if self.is_answered:
            self.sent.clear()
            self.is_answered = self.is_counted = False
        self.sent += data


@dataclass(slots=True)
class Loss:
    """Which reply is lost: the `countdown`-th to a request with the bytes `to`, itself with the bytes `holding`."""

    to: bytes
    holding: bytes
    countdown: int = 1
    stop: bool = False
    """Nothing passes the link after it, instead of a connection that is closed."""

    def meets(self, requests: Requests, reply: bytes) -> bool:
        """Whether this is the one."""
        if requests.is_counted or self.to not in requests.sent or self.holding not in reply:
            return False
        requests.is_counted = True
        self.countdown -= 1
        return self.countdown == 0
