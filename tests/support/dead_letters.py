"""Dead letters made by hand, and the command that an operator has for them."""

from __future__ import annotations

import json
from typing import Any

from typer.testing import CliRunner, Result

from rollstream import GenerationConfig
from rollstream.producer.cli.app import app
from rollstream.schemas import DeadLetter, encode
from tests.support.faults import Queue

CONFIG = GenerationConfig(max_new_tokens=4)
HOSTILE = b"\xff\x00\x1b[2J"


class Operator:
    """`rollstream dead` with one policy."""

    def __init__(self, redis_url: str, policy: str) -> None:
        self.env = {"ROLLSTREAM_REDIS": redis_url, "ROLLSTREAM_POLICY": policy}

    def __call__(self, *args: str) -> Result:
        return CliRunner(env=self.env).invoke(app, ["dead", *args])

    def json(self, *args: str) -> Any:
        done = self(*args, "--json")
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)


def letter_of(policy: str, **changes: Any) -> bytes:
    fields: dict[str, Any] = {
        "policy": policy,
        "entry_id": "5-0",
        "fields": ((b"batch", b"b"), (b"job", b"0")),
        "error": "DataError: given up after 3 deliveries",
        "traceback": "Traceback (most recent call last):\n  boom",
        "deliveries": 4,
        "worker": "gpu-7",
        "delivered_at": 1.7e9,
        "buried_at": 1.7e9 + 1,
    }
    return encode(DeadLetter(**fields | changes))


def bury(queue: Queue, letter: bytes, payload: bytes, key: str = "", entry_id: str = "*") -> str:
    entry: Any = queue.redis.xadd(key or queue.keys.dead(0), {b"letter": letter, b"payload": payload}, id=entry_id)
    return str(entry.decode())
