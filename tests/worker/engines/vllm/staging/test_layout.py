"""Every tensor has its own place in memory, and no place lies in two regions."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rollstream.producer.demo.tiny_model import write_model
from rollstream.worker.engines.vllm.staging import layout
from rollstream.worker.engines.vllm.staging.layout import PAGE, Layout, read_layout
from rollstream.worker.weights import checkpoint
from tests.support.weights.versions import shard


def laid_out(folder: Path) -> Layout:
    return read_layout(folder, checkpoint.read_content(folder))


@pytest.mark.parametrize("region", [PAGE, 2**18, 2**26])
def test_no_tensor_crosses_the_border_of_two_regions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, region: int
) -> None:
    monkeypatch.setattr(layout, "_REGION", region)

    found = laid_out(shard(write_model(tmp_path / "step", tokenizer=False)))

    position = 0
    for offset, nbytes in found.regions:
        assert (offset, offset % PAGE, nbytes % PAGE) == (position, 0, 0)
        position += nbytes
    assert position == found.nbytes
    for tensor in found.tensors:
        places = [one for one in found.regions if one[0] <= tensor.offset < sum(one)]
        assert len(places) == 1
        assert tensor.offset + tensor.nbytes <= sum(places[0])
        assert tensor.offset % 64 == 0
    ends = {tensor.offset: tensor.offset + tensor.nbytes for tensor in found.tensors}
    ordered = sorted(ends)
    assert all(ends[one] <= following for one, following in pairwise(ordered))


def test_the_bytes_of_each_tensor_are_found_in_its_file(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "step", tokenizer=False)
    weights = {
        "model.a": torch.arange(7, dtype=torch.uint8), "model.b": torch.randn(3, 5), "model.c": torch.tensor(2.5),
        "model.d": torch.empty(0, 4),
    }  # fmt: skip
    save_file(weights, folder / "model.safetensors")

    found = {tensor.name: tensor for tensor in laid_out(folder).tensors}

    held = (folder / "model.safetensors").read_bytes()
    assert found.keys() == weights.keys()
    for name, tensor in weights.items():
        place = found[name]
        assert held[place.start : place.start + place.nbytes] == tensor.numpy().tobytes()
        assert place.shape == tuple(tensor.shape)
