"""The digest of files does not depend on how they are read, and changes with everything that they hold."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest

from rollstream.schemas.weights import content_digest as module
from rollstream.schemas.weights.content_digest import content_digest

CONTENT = bytes(range(256)) * 40
"""Some blocks of 1,000 bytes, and a part of one."""


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 1000)


def pieces(content: bytes, length: int) -> Iterator[bytes]:
    return (content[start : start + length] for start in range(0, len(content), length))


@pytest.mark.parametrize("length", [1, 7, 999, 1000, 1001, 2500, len(CONTENT)])
def test_it_is_the_same_however_long_the_pieces_are(length: int) -> None:
    blocks = b"".join(hashlib.sha256(block).digest() for block in pieces(CONTENT, 1000))
    wanted = hashlib.sha256(f"a\0{len(CONTENT)}\0".encode() + blocks).hexdigest()

    assert content_digest([("a", len(CONTENT), pieces(CONTENT, length))]) == wanted


def test_it_changes_with_a_bit_a_name_a_size_and_the_place_of_a_block() -> None:
    flipped = bytes([CONTENT[0] ^ 1, *CONTENT[1:]])
    turned = CONTENT[1000:2000] + CONTENT[:1000] + CONTENT[2000:]
    files = [
        [("a", len(CONTENT), [CONTENT])],
        [("b", len(CONTENT), [CONTENT])],
        [("a", 7, [CONTENT])],
        [("a", len(CONTENT), [flipped])],
        [("a", len(CONTENT), [turned])],
        [("a", 5000, [CONTENT[:5000]]), ("b", len(CONTENT) - 5000, [CONTENT[5000:]])],
        [("a", len(CONTENT), [CONTENT]), ("b", 0, [])],
    ]

    assert len({content_digest(each) for each in files}) == len(files)


def test_an_error_of_reading_is_raised() -> None:
    def broken() -> Iterator[bytes]:
        yield CONTENT
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        content_digest([("a", 1, broken())])
