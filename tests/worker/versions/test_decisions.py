"""Which version is served and which prepared, by what the streams say."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from rollstream.schemas.wire.policies import Activate, Activation, When
from rollstream.worker.versions.announced import BOOTED, Announced
from rollstream.worker.versions.decisions import active, of_these, started_again, to_prepare, to_serve

NOW: When = "at_once"
BY_HAND: When = "by_hand"
SHARED: When = "when_prepared"


def one(version: int, when: When = "at_once", content: str = "", probe: str = "") -> Announced:
    return Announced(
        version=version, source="checkpoint", sha256=content, activate=Activate(when=when), probe_sha256=probe
    )


def announced(*when: When) -> list[Announced]:
    """Versions from 1 on, the newest first."""
    return [one(number, said) for number, said in enumerate(when, start=1)][::-1]


@pytest.mark.parametrize(
    ("said", "activations", "expected"),
    [
        ([], {}, []),
        ([], {3}, []),
        ([NOW, NOW], {}, [2, 1]),
        ([BY_HAND, SHARED], {}, []),
        ([NOW, BY_HAND, BY_HAND], {}, [1]),
        ([NOW, BY_HAND, BY_HAND], {2}, [2, 1]),
        ([BY_HAND, BY_HAND, BY_HAND], {1, 3}, [3, 1]),
        ([BY_HAND, BY_HAND, NOW], {1}, [3, 1]),
        ([NOW, NOW], {2}, [2, 1]),
        ([NOW, BY_HAND], {7}, [1]),
    ],
)
def test_active_is_what_was_announced_at_once_or_activated(
    said: Sequence[When], activations: set[int], expected: list[int]
) -> None:
    assert [found.version for found in active(announced(*said), activations)] == expected


def test_an_activation_whose_announcement_is_gone_counts_and_says_so() -> None:
    there = [one(9, BY_HAND), one(8, BY_HAND), one(2)]

    newest, before = active(there, {5, 2})

    assert (newest.version, "gone from the versions stream" in newest.problem, before) == (5, True, one(2))
    assert active([one(9), *there], {5}) == (one(9), one(2))


@pytest.mark.parametrize(
    ("activations", "expected"),
    [
        ({2: "a"}, {2}),
        ({2: ""}, {2}),
        ({1: "a", 2: "a", 3: "a"}, {1, 2, 3}),
        ({2: "b"}, set()),
        ({1: "a", 2: "b", 3: "a", 7: "a"}, {3, 7}),
    ],
)
def test_an_activation_of_other_content_is_of_former_streams_and_so_are_all_before_it(
    activations: dict[int, str], expected: set[int]
) -> None:
    said = {
        version: Activation(version=version, by="x", at=0.0, sha256=content * 64)
        for version, content in activations.items()
    }

    assert set(of_these([one(number, BY_HAND, "a" * 64) for number in (3, 2, 1)], said)) == expected


@pytest.mark.parametrize(
    ("versions", "served", "adrift", "expected"),
    [
        ([], BOOTED, False, []),
        ([3, 2, 1], BOOTED, False, [3, 2, 1]),
        ([3, 2, 1], one(2), False, [3]),
        ([3, 2, 1], one(3), False, []),
        ([3, 2, 1], one(5), False, []),
        ([3, 2, 1], one(5), True, [3, 2, 1]),
        ([3, 2, 1], one(2, content="other"), False, [3]),
        ([3, 2, 1], one(2, content="other"), True, [3, 2, 1]),
    ],
)
def test_newer_active_versions_are_served_and_any_other_only_by_a_worker_adrift(
    versions: list[int], served: Announced, adrift: bool, expected: list[int]
) -> None:
    found = to_serve([one(version) for version in versions], served, adrift=adrift)

    assert [candidate.version for candidate in found] == expected


@pytest.mark.parametrize(
    ("versions", "served", "again"),
    [
        ([], one(5), False),
        ([6, 5], one(5), False),
        ([7, 6], one(5), False),
        ([4], one(5), True),
        ([6, 5], one(5, content="other"), True),
    ],
)
def test_streams_that_end_before_the_served_version_or_give_it_other_content_are_others(
    versions: list[int], served: Announced, again: bool
) -> None:
    assert started_again([one(version) for version in versions], served) == again


@pytest.mark.parametrize(
    ("asked", "passed", "again"),
    [("", "", False), ("", "one", False), ("one", "one", False), ("one", "", True), ("one", "other", True)],
)
def test_a_probe_that_was_not_passed_makes_the_same_content_another_and_none_asks_nothing(
    asked: str, passed: str, again: bool
) -> None:
    there, served = one(5, probe=asked), one(5, probe=passed)

    assert started_again([there], served) == again
    assert to_serve([there], served, adrift=True) == ([there] if again else [])


@pytest.mark.parametrize(
    ("said", "activations", "expected"),
    [
        ([NOW, NOW], {}, []),
        ([NOW, BY_HAND, SHARED], {}, [3, 2]),
        ([BY_HAND, SHARED, BY_HAND], {2}, [3]),
        ([BY_HAND, NOW], {}, []),
    ],
)
def test_only_what_may_still_be_activated_is_prepared_the_newest_first(
    said: Sequence[When], activations: set[int], expected: list[int]
) -> None:
    there = announced(*said)

    found = to_prepare(there, active(there, activations), BOOTED)

    assert [candidate.version for candidate in found] == expected
