"""Where each tensor of a checkpoint lies in its file, and where it will lie in memory. Imports neither torch nor vLLM.

They lie in the order of their names, so that all checkpoints of a model have one layout, however many files they have.
CUDA pins memory by region and copies nothing that crosses the border of two. So no tensor does, and a region that only
one large tensor fills is as large as that.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ....weights import checkpoint
from ....weights.checkpoint_content import Content

PAGE = 4096
_ALIGNMENT = 64
"""Bytes: enough for every dtype, and for the loads of wide vectors."""
_REGION = 64 * 2**20
"""Pinning so much takes a GPU's driver a few milliseconds, in which it launches nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedTensor:
    """One tensor: what it is, its bytes in a file, and their place in memory."""

    name: str
    dtype: str
    """As safetensors names it."""
    shape: tuple[int, ...]
    file: str
    start: int
    """Its first byte in the file."""
    nbytes: int
    offset: int
    """Its first byte in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """All tensors of a checkpoint, and the regions of memory that they fill."""

    tensors: tuple[PlacedTensor, ...]
    regions: tuple[tuple[int, int], ...]
    """(offset, bytes), by whole pages and without gaps."""

    @property
    def nbytes(self) -> int:
        """Bytes of memory for all."""
        return sum(nbytes for _, nbytes in self.regions)


def read_layout(folder: Path, content: Content) -> Layout:
    """Read the headers of the files that vLLM would load. Raises `CheckpointRefusedError`; blocks on the disk."""
    sizes = {file.name: file.size for file in content.files}
    found = []
    for file, headers in checkpoint.read_tensors(folder).items():
        begins = sizes.get(file, 0) - max((header.end for header in headers.values()), default=0)
        found += [(name, header, file, begins + header.start) for name, header in headers.items()]
    return _placed(found)


def _placed(found: list[tuple[str, checkpoint.TensorHeader, str, int]]) -> Layout:
    tensors, regions = [], []
    region, end = 0, 0
    for name, header, file, start in sorted(found, key=lambda one: one[0]):
        nbytes = header.end - header.start
        if end > region and end + nbytes > region + _REGION:
            regions.append((region, _up(end, PAGE) - region))
            region = end = _up(end, PAGE)
        tensors.append(
            PlacedTensor(
                name=name, dtype=header.dtype, shape=header.shape, file=file, start=start, nbytes=nbytes, offset=end
            )
        )
        end = _up(end + nbytes, _ALIGNMENT)
    if end > region:
        regions.append((region, _up(end, PAGE) - region))
    return Layout(tensors=tuple(tensors), regions=tuple(regions))


def _up(number: int, step: int) -> int:
    return -(-number // step) * step
