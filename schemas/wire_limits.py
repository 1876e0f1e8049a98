"""A payload passes here before anything is allocated for it: size, depth and count are read off its msgpack headers."""

from __future__ import annotations

MAX_BYTES = 64 * 2**20
MAX_DEPTH = 8
MAX_ITEMS = 100_000

# Fixed-width types: what follows the type byte. Spec: https://github.com/msgpack/msgpack/blob/master/spec.md
_SCALAR_BYTES = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8} | {
    0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8,
}  # fmt: skip
_LENGTH_BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_ARRAY_BYTES = {0xDC: 2, 0xDD: 4}
_MAP_BYTES = {0xDE: 2, 0xDF: 4}


class LimitExceeded(ValueError):
    """Raised when a payload is truncated, has trailing bytes, or is larger, deeper or of more items than allowed."""


def check(data: bytes) -> None:
    """Walk the headers of one msgpack value, stepping over binary bodies: cost grows with items, not bytes."""
    if len(data) > MAX_BYTES:
        raise LimitExceeded(f"{len(data)} bytes, at most {MAX_BYTES} are read")
    position, seen, open_items = 0, 0, [1]
    while open_items:
        if open_items[-1] == 0:
            open_items.pop()
            continue
        open_items[-1] -= 1
        seen += 1
        position, children = _step(data, position)
        if children is None:
            continue
        if seen + children > MAX_ITEMS:
            raise LimitExceeded(f"more than {MAX_ITEMS} items")
        if len(open_items) > MAX_DEPTH:
            raise LimitExceeded(f"nested deeper than {MAX_DEPTH}")
        open_items.append(children)
    if position != len(data):
        raise LimitExceeded(f"{len(data) - position} bytes after the end of the message")


def _step(data: bytes, position: int) -> tuple[int, int | None]:
    """The position after the header (and body, for a leaf) at `position`, and how many children a container opens."""
    if position >= len(data):
        raise LimitExceeded("truncated")
    kind = data[position]
    body = position + 1
    if kind <= 0x7F or kind >= 0xE0:
        return body, None
    if kind <= 0x8F:
        return body, 2 * (kind & 0x0F)
    if kind <= 0x9F:
        return body, kind & 0x0F
    if kind <= 0xBF:
        return _leaf(data, body + (kind & 0x1F))
    if kind in _SCALAR_BYTES:
        return _leaf(data, body + _SCALAR_BYTES[kind])
    for table, children_each in ((_LENGTH_BYTES, 0), (_ARRAY_BYTES, 1), (_MAP_BYTES, 2)):
        if kind in table:
            end = body + table[kind]
            if end > len(data):
                raise LimitExceeded("truncated")
            length = int.from_bytes(data[body:end], "big")
            return (end, children_each * length) if children_each else _leaf(data, end + length)
    raise LimitExceeded(f"msgpack type 0x{kind:02x} is not used on this wire")


def _leaf(data: bytes, end: int) -> tuple[int, None]:
    if end > len(data):
        raise LimitExceeded("truncated")
    return end, None
