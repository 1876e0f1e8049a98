"""Whatever JSON a trainer's file holds, its reader refuses it with the one error that leaves the worker serving."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rollstream.producer.demo.tiny_model import write_model
from rollstream.worker.adapters.folder import AdapterFolder
from rollstream.worker.errors import CheckpointRefusedError, DataError
from rollstream.worker.weights.checkpoint import Booted, check
from rollstream.worker.weights.safetensors_header import HeaderError, read_header
from rollstream.worker.weights.untrusted_json import MAX_DEPTH, JsonRefusedError, parse_object
from tests.support.weights.versions import shard

HOSTILE: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"{",
    "a list": b"[]",
    "deep lists": b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "deep objects": b'{"a":' * 200_000 + b"1" + b"}" * 200_000,
    "deep, but not for the parser": b'{"a":' * 400 + b"1" + b"}" * 400,
    "too long an integer": b'{"a":' + b"1" * 5000 + b"}",
    "no UTF-8": b'{"\xff":1}',
    "half a surrogate pair": rb'{"\uD800":1}',
    "half a surrogate pair in a value": rb'{"architectures":["\udcff"]}',
    "UTF-16": '{"a":1}'.encode("utf-16"),
}
SIZES: dict[str, str] = {
    "an infinite size": '"shape":[1e999],"data_offsets":[0,4]',
    "a NaN for a size": '"shape":[NaN],"data_offsets":[0,4]',
    "a fraction": '"shape":[1.0],"data_offsets":[0,4]',
    "a text": '"shape":["1"],"data_offsets":[0,4]',
    "a text of sizes": '"shape":"1","data_offsets":[0,4]',
    "true": '"shape":[true],"data_offsets":[0,4]',
    "a negative size": '"shape":[-1,-1],"data_offsets":[0,4]',
    "beyond 64 bits": f'"shape":[{2**64}],"data_offsets":[0,4]',
    "too many dimensions": f'"shape":{json.dumps([1] * 65)},"data_offsets":[0,4]',
    "infinite offsets": '"shape":[1],"data_offsets":[0,1e999]',
    "one offset": '"shape":[1],"data_offsets":[0]',
    "three offsets": '"shape":[1],"data_offsets":[0,4,4]',
    "no offsets": '"shape":[1]',
    "no list": '"shape":1,"data_offsets":[0,4]',
}
HEADERS = {
    **HOSTILE,
    **{name: f'{{"a":{{"dtype":"F32",{sizes}}}}}'.encode() for name, sizes in SIZES.items()},
    "a tensor that is none": b'{"a":7}',
    "a dtype that is none": b'{"a":{"dtype":[],"shape":[1],"data_offsets":[0,4]}}',
}


def weights(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + bytes(4)


@pytest.fixture(scope="module")
def booted(tiny_model: Path) -> Booted:
    return Booted(folder=tiny_model)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shard(write_model(tmp_path_factory.mktemp("published") / "step-7", seed=7, tokenizer=False))


def refused_checkpoint(booted: Booted, folder: Path) -> None:
    with pytest.raises(CheckpointRefusedError) as raised:
        check(folder, booted)
    str(raised.value).encode()


READERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "config": ("config.json", bytes),
    "index": ("model.safetensors.index.json", bytes),
    "header": ("model-00001-of-00002.safetensors", weights),
}


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("reader", READERS)
def test_a_checkpoint_with_such_a_file_is_refused(
    reader: str, hostile: str, booted: Booted, published: Path, tmp_path: Path
) -> None:
    name, written = READERS[reader]
    folder = shutil.copytree(published, tmp_path / "step-7")
    (folder / name).write_bytes(written(HOSTILE[hostile]))

    refused_checkpoint(booted, folder)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_an_adapter_with_such_a_config_is_refused(hostile: str, adapter_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(adapter_dir / "math@1", tmp_path / "math@1")
    (folder / "adapter_config.json").write_bytes(HOSTILE[hostile])

    with pytest.raises(DataError, match=r"adapter_config\.json") as raised:
        AdapterFolder(root=tmp_path, max_rank=16, model=None).find("math@1")
    raised.value.message.encode()


@pytest.mark.parametrize("header", HEADERS)
def test_such_a_header_is_refused(header: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(weights(HEADERS[header]))

    with pytest.raises(HeaderError) as raised:
        read_header(tmp_path / "model.safetensors")
    assert str(raised.value).startswith("model.safetensors")


def test_the_header_that_the_others_are_made_from_is_taken(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(
        weights(b'{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}')
    )

    (tensor,) = read_header(tmp_path / "model.safetensors").values()
    assert (tensor.dtype, tensor.shape, tensor.start, tensor.end) == ("F32", (1,), 0, 4)


def test_depth_is_counted_and_whole_surrogate_pairs_are_text() -> None:
    nested = '{"a":' * MAX_DEPTH + "1" + "}" * MAX_DEPTH

    assert parse_object(nested.encode()) == json.loads(nested)
    assert parse_object(rb'{"a":"\ud83d\ude00"}') == {"a": "\U0001f600"}
    with pytest.raises(JsonRefusedError, match="nested more than 16 deep"):
        parse_object(f'{{"a":{nested}}}'.encode())
