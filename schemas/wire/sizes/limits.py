"""Checks a payload's size, depth and count by its msgpack headers, before anything is allocated for it."""

from __future__ import annotations

from itertools import repeat

MAX_BYTES = 64 * 2**20
MAX_DEPTH = 8
MAX_ITEMS = 100_000

# By type byte. Spec: https://github.com/msgpack/msgpack/blob/master/spec.md
_SCALAR_BYTES = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8} | {
    0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8,
}  # fmt: skip
_BODY_BYTES = dict.fromkeys([*range(0x80), *range(0xE0, 0x100)], 0) | {0xA0 + n: n for n in range(32)} | _SCALAR_BYTES
_LEAF_BYTES = [1 + _BODY_BYTES.get(kind, -1) for kind in range(256)]
"""Bytes of a value with its type byte, if the type byte alone tells; else 0."""
_BODY_LENGTH_BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_COUNT_BYTES = {0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}
_MAPS = frozenset({*range(0x80, 0x90), 0xDE, 0xDF})


class LimitExceeded(ValueError):
    """Raised if a payload is truncated, has trailing bytes, or is larger, deeper or has more items than allowed."""


def check(data: bytes) -> None:
    """Walk the headers of one msgpack value and skip its binary bodies: the cost grows with items, not bytes."""
    if len(data) > MAX_BYTES:
        raise LimitExceeded(f"{len(data)} bytes, at most {MAX_BYTES} are read")
    try:
        end = _end(data)
    except IndexError:
        raise LimitExceeded("truncated") from None
    if end > len(data):
        raise LimitExceeded("truncated")
    if end < len(data):
        raise LimitExceeded(f"{len(data) - end} bytes after the end of the message")


def _end(data: bytes) -> int:
    """Where the value ends by its headers. Raises `IndexError` if they declare bytes that are not there.

    Each message that is read or sent passes this loop; nearly all its items take the first branch.
    """
    leaf_bytes, position, items = _LEAF_BYTES, 0, 1
    siblings = repeat(None, 1)  # values still to come at this level
    outer: list[repeat[None]] = []  # and at the levels around it
    while True:
        for _ in siblings:
            kind = data[position]
            if size := leaf_bytes[kind]:
                position += size
            elif kind in _BODY_LENGTH_BYTES:
                start = position + 1 + _BODY_LENGTH_BYTES[kind]
                position = start + int.from_bytes(data[position + 1 : start], "big")
            else:
                break
        else:
            if not outer:
                return position
            siblings = outer.pop()
            continue
        position, children = _opened(data, position)
        items += children
        outer.append(siblings)
        if items > MAX_ITEMS:
            raise LimitExceeded(f"more than {MAX_ITEMS} items")
        if len(outer) > MAX_DEPTH:
            raise LimitExceeded(f"nested deeper than {MAX_DEPTH}")
        siblings = repeat(None, children)


def _opened(data: bytes, position: int) -> tuple[int, int]:
    """The position after the header of the array or map at `position`, and how many values it declares."""
    kind, start = data[position], position + 1
    each = 2 if kind in _MAPS else 1
    if kind <= 0x9F:
        return start, each * (kind & 0x0F)
    if kind not in _COUNT_BYTES:
        raise LimitExceeded(f"msgpack type 0x{kind:02x} is not used on this wire")
    end = start + _COUNT_BYTES[kind]
    if end > len(data):
        raise LimitExceeded("truncated")
    return end, each * int.from_bytes(data[start:end], "big")
