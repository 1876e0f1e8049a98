"""Wrong tokens cannot be tried at will, and a token is read where no list of processes shows it."""

from __future__ import annotations

from pathlib import Path

import pytest

from rollstream.producer.http.errors import ServerSetupError
from rollstream.producer.http.token_file import read_token
from rollstream.producer.http.tokens import WrongTries

TOKEN = "0123456789abcdef"
VARIABLE = "ROLLSTREAM_A_TOKEN"


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def test_tries_are_counted_by_address_and_forgotten_after_a_minute() -> None:
    clock = Clock()
    tries = WrongTries(most=2, within_s=60, clock=clock)
    tries.count("10.0.0.1")
    clock.now += 10
    tries.count("10.0.0.1")

    assert (tries.wait_s("10.0.0.1"), tries.wait_s("10.0.0.2")) == (50, 0)
    clock.now += 50
    assert tries.wait_s("10.0.0.1") == 0


@pytest.mark.parametrize(
    ("one", "other", "are_one"),
    [
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.2", False),
        ("10.0.0.1", "10.0.0.2", False),
        ("no address", "no address", True),
    ],
)
def test_addresses_of_one_ipv6_network_count_as_one(one: str, other: str, are_one: bool) -> None:
    tries = WrongTries(most=1)
    tries.count(one)
    assert (tries.wait_s(other) > 0) == are_one


def test_addresses_without_end_take_bounded_memory() -> None:
    tries = WrongTries(most=1)
    for number in range(3000):
        tries.count(f"10.0.{number // 250}.{number % 250}")
    assert len(tries._wrong) == 1000
    assert tries.wait_s("10.0.11.249") > 0


def test_a_token_comes_from_a_file_or_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}-file\n")

    assert read_token(file, {VARIABLE: TOKEN}, VARIABLE) == f"{TOKEN}-file"
    assert read_token(None, {VARIABLE: f" {TOKEN}\n"}, VARIABLE) == TOKEN
    assert read_token(None, {}, VARIABLE) is None


@pytest.mark.parametrize("data", [b"", b"short", b"x" * 1025, b"x" * 5000, b"two words of a token", b"\xff" * 20])
def test_a_token_that_is_none_is_refused_without_being_shown(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(data)

    with pytest.raises(ServerSetupError, match="16 to 1024 printable ASCII characters") as refused:
        read_token(file, {}, VARIABLE)
    assert "umask 077" in str(refused.value)
    assert not data or data.decode("utf-8", "replace") not in str(refused.value)


def test_a_token_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ServerSetupError, match=r"nothing-here: No such file or directory; make one with"):
        read_token(tmp_path / "nothing-here", {}, VARIABLE)
    with pytest.raises(ServerSetupError, match="Is a directory"):
        read_token(tmp_path, {}, VARIABLE)
