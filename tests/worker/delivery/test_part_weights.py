"""Nobody goes on from tokens that other weights of the same number, or another adapter of the same name, sampled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from rollstream.schemas import Envelope, Keys, Part
from rollstream.worker.config import WorkerSettings
from rollstream.worker.delivery.make_parts import contents_of
from rollstream.worker.delivery.part_weights import mixed_problem
from rollstream.worker.weights.contents import Contents, boot_digest
from tests.support.partials.parts import deliver, job_of, part_of, parts_at, take_over, tokens_by_name

JOB = job_of()
OLD, NEW = "5a" * 32, "3c" * 32


@pytest.fixture
def keys(policy: str) -> Keys:
    return Keys(policy)


async def gone_on_from(
    redis: Redis, keys: Keys, writer: Mapping[int, str], reader: Mapping[int, str], adapters: tuple[str | None, ...]
) -> tuple[dict[tuple[int, int], int], list[str]]:
    """What a reader goes on from, and its warnings, of a part that a writer with other weights left."""
    lease = await deliver(redis, keys, JOB)
    lease.adapter_sha256 = adapters[0]
    part = part_of(JOB, 0, 0, 3, version_spans=tuple((version, 3 // len(writer)) for version in writer), weights=())
    left = parts_at(redis, keys, content_of=writer.get, check_proven=lambda _: None)
    await left.keep(lease, Envelope.of_job(JOB), [part])
    lease = await take_over(redis, lease, "w2")
    lease.adapter_sha256 = adapters[-1]
    with capture_logs() as logs:
        found = await parts_at(redis, keys, content_of=reader.get).kept(lease, JOB, [0, 1])
    return tokens_by_name(found), [one["why"] for one in logs if one["log_level"] == "warning"]


@pytest.mark.parametrize(
    ("writer", "reader", "adapters", "why"),
    [
        ({0: OLD}, {0: NEW}, (None,), "other weights"),
        ({5: OLD}, {0: OLD, 5: NEW}, (None,), "other weights"),
        ({5: OLD}, {0: OLD}, (None,), "cannot tell"),
        ({5: OLD}, {5: OLD}, (OLD, NEW), "other weights"),
        ({5: OLD}, {5: OLD}, (OLD, ""), "cannot tell"),
        ({5: OLD}, {5: OLD}, ("", OLD), "does not say"),
        ({5: OLD}, {5: OLD}, (None, OLD), "other weights"),
    ],
)
async def test_a_sample_of_other_weights_begins_again_and_one_warning_names_it(
    redis: Redis,
    keys: Keys,
    writer: dict[int, str],
    reader: dict[int, str],
    adapters: tuple[str | None, ...],
    why: str,
) -> None:
    found, warnings = await gone_on_from(redis, keys, writer, reader, adapters)

    assert found == {}
    assert len(warnings) == 1
    assert why in warnings[0]


@pytest.mark.parametrize("adapter", [None, OLD])
async def test_a_sample_of_the_same_weights_is_gone_on_from_under_a_newer_version(
    redis: Redis, keys: Keys, adapter: str | None
) -> None:
    found, warnings = await gone_on_from(
        redis, keys, {0: OLD, 4: NEW, 5: OLD}, {0: OLD, 4: NEW, 5: OLD, 9: NEW}, (adapter,)
    )

    assert (found, warnings) == ({(0, 0): 3}, [])


def test_a_number_that_had_two_contents_here_has_no_digest() -> None:
    contents = Contents(boot=OLD)
    contents.announced = {5: NEW, 6: NEW}.get
    contents.serves(5, OLD)

    assert (contents.of(5), contents.of(6), contents.of(7)) == (OLD, NEW, None)

    contents.serves(5, NEW)

    assert contents.of(5) is None


def test_an_unknown_boot_model_has_no_digest_and_neither_has_its_adapter() -> None:
    contents = Contents()

    assert contents.of(0) is None
    assert contents.of_announced(OLD, is_adapter=True) is None
    assert contents.of_announced(OLD, is_adapter=False) is not None


def model(folder: Path, *, config: str = "{}", weights: bytes = b"abc") -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(config)
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def test_boot_models_are_told_apart_by_config_and_weights_and_not_by_their_folder(tmp_path: Path) -> None:
    one, same = boot_digest(model(tmp_path / "one")), boot_digest(model(tmp_path / "same"))
    others = {
        boot_digest(model(tmp_path / "config", config="[]")),
        boot_digest(model(tmp_path / "weights", weights=b"abd")),
        boot_digest(model(tmp_path / "size", weights=b"abcd")),
    }

    assert one == same
    assert len({one, *others}) == 4
    assert boot_digest(tmp_path / "none") == ""


def test_the_same_model_in_another_dtype_is_another_content(tmp_path: Path) -> None:
    folder = model(tmp_path / "one")
    half, full = (
        contents_of(WorkerSettings(policy="p", engine="stub", model=folder, dtype=dtype))
        for dtype in ("bfloat16", "float32")
    )

    assert half.of(0) != full.of(0)
    assert half.of_announced(OLD, is_adapter=False) != full.of_announced(OLD, is_adapter=False)


def sample(number: int, *weights: tuple[int, str | None]) -> Part:
    """A finished sample whose tokens these versions sampled; None: it does not name the version's weights."""
    spans = tuple((version, 1) for version, _ in weights)
    named = tuple((version, digest) for version, digest in weights if digest is not None)
    return part_of(JOB, 0, number, len(spans), version_spans=spans, weights=named, finish_reason="stop")


@pytest.mark.parametrize(
    ("parts", "here", "why"),
    [
        ([sample(0, (3, OLD)), sample(1, (3, NEW))], {}, "in samples 1 version 3, or the adapter, has other weights"),
        ([sample(0, (3, OLD)), sample(1, (3, NEW))], {3: NEW}, "in samples 0 version 3"),
        ([sample(0, (3, OLD)), sample(1, (3, OLD))], {3: NEW}, "in samples 0, 1 version 3"),
        ([sample(0, (3, OLD)), sample(1, (3, None))], {}, "in samples 1 version 3, or the adapter, names no weights"),
        ([sample(0, (3, None)), sample(1, (3, None))], {3: OLD}, "in samples 0, 1 version 3"),
        ([sample(0, (2, OLD), (3, OLD)), sample(1, (2, OLD), (3, NEW))], {2: OLD}, "in samples 1 version 3"),
        ([sample(0, (3, OLD)), sample(1, (4, NEW))], {}, None),
        ([sample(0, (3, OLD)), sample(1, (3, OLD))], {4: NEW}, None),
        ([sample(0, (3, None)), sample(1, (3, None))], {}, None),
    ],
)
def test_samples_of_one_group_are_of_the_same_weights_under_each_number(
    parts: list[Part], here: Mapping[int, str], why: str | None
) -> None:
    problem = mixed_problem(parts, here.get)

    assert (problem or "").startswith(why or "")
    assert (problem is None) == (why is None)
