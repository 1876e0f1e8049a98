"""What the gateway is started with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rollstream.schemas.times import SESSION_RETENTION_S
from rollstream.transport.redis.access import RedisAccess

from .gate import Bounds
from .requests.asked import MOST_CHARACTERS, MOST_COMPLETIONS


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """What `rollstream gateway` is started with."""

    redis: RedisAccess | str
    policy: str
    tokenizer: Path
    """Folder of the model's tokenizer and chat template."""
    partitions: int = 1
    host: str = "127.0.0.1"
    port: int = 0
    """0 for any free one."""
    token: str | None = None
    bounds: Bounds
    timeout_s: float = 600.0
    grace_s: float = 10.0
    """Requests that run when it is told to end have so long for their answers."""
    max_tokens: int = 1024
    max_completions: int = MOST_COMPLETIONS
    max_characters: int = MOST_CHARACTERS
    session_retention_s: float = SESSION_RETENTION_S
    """How long a session and the results of its turns stay after a turn through this gateway."""
    tool_calls: str = "auto"
