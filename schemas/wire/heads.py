"""What the first bytes of a message tell, where the whole of it need not be read."""

from __future__ import annotations

import msgpack

HEAD_BYTES = 512
"""So many bytes of an answer have its batch and its group."""


def group_of_head(head: bytes) -> int | None:
    """The group that an answer is for, from its first `HEAD_BYTES`; None if they do not tell."""
    unpacker = msgpack.Unpacker(use_list=False)
    unpacker.feed(head)
    try:
        for _ in range(unpacker.read_map_header()):
            name, value = unpacker.unpack(), unpacker.unpack()
            if name == "group":
                return value if type(value) is int and value >= 0 else None
    except (msgpack.UnpackException, ValueError, TypeError):
        pass
    return None
