"""Write the golden file of a message that has none yet, never touching one: `python -m
tests.schemas.wire.write_golden`."""

from __future__ import annotations

from rollstream.schemas import encode
from tests.schemas.wire.golden_messages import GOLDEN, TODAY

if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for file, message in TODAY.items():
        path = GOLDEN / f"{file}.msgpack"
        if not path.exists():
            path.write_bytes(encode(message))
