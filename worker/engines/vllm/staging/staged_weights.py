"""Runs inside vLLM's workers: the calls about the checkpoint that is staged for the next swap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from .mapped import MappedWeights, Tensor


class StagedWeights:
    """The methods become methods of vLLM's worker, so that `collective_rpc` can call them. None of them waits."""

    device: Any
    rollstream_mapped: MappedWeights | None = None

    def rollstream_stage(self, path: str, regions: Sequence[Sequence[int]], tensors: Sequence[Tensor]) -> None:
        """Begin to map the shared memory at `path`; forgets what was staged before."""
        self.rollstream_unstage()
        self.rollstream_mapped = MappedWeights(path=path, regions=regions, tensors=tensors, device=self.device)

    def rollstream_staged(self) -> str | None:
        """None while it is under way; empty once a swap can use it; else why not."""
        mapped = self.rollstream_mapped
        return "nothing is staged" if mapped is None else mapped.problem

    def rollstream_unstage(self) -> None:
        """Forget what is staged."""
        mapped, self.rollstream_mapped = self.rollstream_mapped, None
        if mapped is not None:
            mapped.close()

    def rollstream_staged_tensors(self) -> Iterator[tuple[str, Any]]:
        """What a swap loads. Raises `RuntimeError` if it is not there."""
        if self.rollstream_mapped is None:
            raise RuntimeError("nothing is staged")
        return self.rollstream_mapped.tensors()
