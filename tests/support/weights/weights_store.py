"""A reader of the weight store, written apart from the worker's: what a version's tensors are by what is stored."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rollstream.schemas import PolicyVersion
from rollstream.schemas.weights.delta import read_records
from rollstream.schemas.weights.tensor_digest import bytes_digest
from rollstream.transport.weights import WeightStore, read_chain, read_chunk

SIZE = 5000
"""Elements of each tensor of `state`."""
_TORCH = {"BF16": torch.bfloat16, "F32": torch.float32, "F16": torch.float16, "I64": torch.int64, "BOOL": torch.bool}


async def stored_tensors(store: WeightStore, name: str) -> dict[str, torch.Tensor]:
    """The tensors of the version whose manifest has this name, each verified against the manifest."""
    chain = await read_chain(store, name)
    found: dict[str, NDArray[Any]] = {one.name: np.zeros(one.num_bytes, np.uint8) for one in chain[0].tensors}
    for manifest in chain:
        for chunk in manifest.chunks:
            for record in read_records(await read_chunk(store, chunk, manifest.compression), manifest.tensors):
                record.apply(found[manifest.tensors[record.tensor].name])
        for entry in manifest.tensors:
            assert bytes_digest(found[entry.name].data) == entry.sha256
    return {
        one.name: torch.from_numpy(found[one.name]).view(_TORCH[one.dtype]).reshape(one.shape)
        for one in chain[-1].tensors
    }


def state(**changed: float) -> dict[str, torch.Tensor]:
    """Two tensors; `a=3.5` sets the first element of `a`."""
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(SIZE, generator=generator).bfloat16() for name in ("a", "b")}
    for name, value in changed.items():
        tensors[name][0] = value
    return tensors


async def arrives(store: WeightStore, version: PolicyVersion, tensors: dict[str, torch.Tensor]) -> bool:
    """Whether the store has exactly these tensors for the version."""
    found = await stored_tensors(store, version.location)
    return found.keys() == tensors.keys() and all(torch.equal(found[name], tensors[name]) for name in found)
