"""`rollstream publish --weights` and `activate --weights`: tensors go through the store, which is looked at first."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from safetensors.torch import load_file

from rollstream.schemas import Keys
from rollstream.transport.weights import WeightStore, is_chunk, store_of
from tests.producer.operations.test_requests import Operator
from tests.support.faults import Queue
from tests.support.weights.publishing import announced, lora, manifests, peft_folder
from tests.support.weights.weights_store import arrives


@pytest.fixture
def operator(redis_url: str, policy: str) -> Operator:
    return Operator(redis_url, policy)


@pytest.fixture
def place(tmp_path: Path) -> str:
    (tmp_path / "store").mkdir()
    return str(tmp_path / "store")


@pytest.fixture
def store(place: str, policy: str) -> WeightStore:
    return store_of(place, Keys(policy))


def remove(store: WeightStore, *, chunks: bool) -> None:
    """Remove all chunks, or all manifests."""

    async def gone() -> None:
        await store.delete([one.name for one in await store.items() if is_chunk(one.name) == chunks])

    asyncio.run(gone())


def test_a_folder_goes_through_the_store_with_a_bar(
    operator: Operator, models: Path, queue: Queue, place: str, store: WeightStore
) -> None:
    done = operator("publish", "1", "--checkpoint", str(models / "step-1"), "--weights", place)

    ((_, version),) = announced(queue)
    assert done.exit_code == 0
    assert done.stdout.endswith(f"version 1: checkpoint {version.location} published through the weight store\n")
    assert [name for name in ("reading", "version 1") if name not in done.stderr] == [], "a bar is missing"
    assert version.transport == "store"
    assert asyncio.run(arrives(store, version, load_file(models / "step-1" / "model.safetensors")))


def test_an_adapter_goes_through_the_store_if_one_is_named(
    operator: Operator, queue: Queue, place: str, store: WeightStore, tmp_path: Path
) -> None:
    folder = str(peft_folder(tmp_path / "adapter", lora()))

    assert operator("publish", "1", "--adapter", folder, "--weights", place).exit_code == 0
    assert manifests(queue) == []
    assert operator("publish", "2", "--adapter", folder).exit_code == 0

    (_, first), (_, second) = announced(queue)
    assert (first.source, first.transport, second.transport) == ("adapter", "store", "folder")
    assert asyncio.run(arrives(store, first, lora()))


def test_the_environment_names_the_store_too(
    operator: Operator, models: Path, queue: Queue, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROLLSTREAM_WEIGHTS", place)
    assert operator("publish", "1", "--checkpoint", str(models / "step-1")).exit_code == 0
    assert announced(queue)[0][1].transport == "store"


@pytest.mark.parametrize("chunks", [True, False], ids=["chunks", "manifest"])
def test_again_says_at_once_what_the_store_has_lost(
    operator: Operator, models: Path, queue: Queue, place: str, store: WeightStore, chunks: bool
) -> None:
    operator("publish", "1", "--checkpoint", str(models / "step-1"), "--weights", place)
    kept = operator("publish", "2", "--again", "1", "--weights", place)
    assert (kept.exit_code, kept.stderr) == (0, "")
    remove(store, chunks=chunks)

    gone = operator("publish", "3", "--again", "1", "--weights", place)
    assert gone.exit_code == 1
    assert "the content of version 1 is not in the weight store" in gone.stderr
    assert len(announced(queue)) == 2

    unseen = operator("publish", "3", "--again", "1")
    assert unseen.exit_code == 0
    assert "nobody looked whether the weight store still has" in unseen.stderr


def test_activate_looks_into_the_store_first(
    operator: Operator, models: Path, policy: str, place: str, store: WeightStore
) -> None:
    by_hand = ("--weights", place, "--activate", "by-hand")
    for version in ("1", "2"):
        operator("publish", version, "--checkpoint", str(models / f"step-{version}"), *by_hand)
    there = operator("activate", "1", "--weights", place)
    assert (there.exit_code, there.stdout) == (0, f"policy {policy} version 1 is active\n")
    remove(store, chunks=True)

    gone = operator("activate", "2", "--weights", place)

    assert gone.exit_code == 1
    assert "has its weights no more" in gone.stderr
    assert operator("activate", "2").exit_code == 0, "without the store nobody looks"


@pytest.mark.parametrize("command", [("publish", "2", "--again", "1"), ("activate", "1")], ids=lambda args: args[0])
@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("/no/such", "there is no such folder"),
        ("s3:/me:SECRET@bucket/run", "there is no such folder"),
        ("", "nothing is"),
    ],
)
def test_what_can_be_no_store_is_refused_and_shows_no_secret(
    operator: Operator, queue: Queue, command: tuple[str, ...], given: str, told: str
) -> None:
    refused = operator(*command, "--weights", given)
    assert refused.exit_code == 1
    assert told in refused.stderr
    assert "SECRET" not in refused.stderr
    assert announced(queue) == []
