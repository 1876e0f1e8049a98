"""The consumers that jobs wait under: read as they are written, and never mistaken for a worker."""

from __future__ import annotations

import pytest

from rollstream.schemas import NameRefusedError
from rollstream.schemas.keys import check_name
from rollstream.schemas.parked import ParkedFor, ParkedForWorker, is_parked


@pytest.mark.parametrize("version", [0, 12, 2**31 - 1])
def test_a_consumer_tells_which_version_its_jobs_wait_for(version: int) -> None:
    assert ParkedFor.of(ParkedFor(version).consumer) == ParkedFor(version)


@pytest.mark.parametrize(
    "consumer",
    ["worker-1", "parked:12", "parked:version:", "parked:version:x", "parked:version:-1", "parked:version:2147483648",
     "parked:version:99999999999", "parked:version:\u0665", "parked:future:a"],
)  # fmt: skip
def test_any_other_name_is_that_of_a_worker(consumer: str) -> None:
    assert ParkedFor.of(consumer) is None
    assert not is_parked(consumer)


def test_no_worker_may_have_such_a_name() -> None:
    with pytest.raises(NameRefusedError):
        check_name("consumer", ParkedFor(3).consumer)


def test_a_consumer_tells_which_worker_its_jobs_wait_for() -> None:
    waiting = ParkedForWorker("gpu-1.7")

    assert waiting.consumer == "parked:worker:gpu-1.7"
    assert ParkedForWorker.of(waiting.consumer) == waiting
    assert is_parked(waiting.consumer)
    assert ParkedFor.of(waiting.consumer) is None


@pytest.mark.parametrize("consumer", ["parked:worker:", "parked:worker:a b", "parked:worker:\x1b[2J", "worker:a"])
def test_what_no_worker_is_called_is_waited_for_by_nobody(consumer: str) -> None:
    assert ParkedForWorker.of(consumer) is None
    assert not is_parked(consumer)
