"""Runs inside vLLM's workers: the calls about the checkpoint that is staged for the next swap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from .mapped import MappedWeights, Tensor


class StagedWeights:
    """The methods become methods of vLLM's worker, so that `collective_rpc` can call them. None of them waits."""

    device: Any
    rollstream_mapped: MappedWeights | None = None
    """What is staged."""
    rollstream_spare: MappedWeights | None = None
    """What was staged before and is still pinned."""

    def rollstream_stage(
        self, path: str, number: int, regions: Sequence[Sequence[int]], tensors: Sequence[Tensor]
    ) -> None:
        """Begin to map the shared memory at `path`, whose number tells whether it still is. Forgets what was staged."""
        self.rollstream_unstage()
        spare, self.rollstream_spare = self.rollstream_spare, None
        if spare is not None and spare.number != number:
            spare.close()
            spare = None
        mapped = spare or MappedWeights(path=path, number=number, regions=regions, device=self.device)
        mapped.hold(tensors)
        self.rollstream_mapped = mapped

    def rollstream_staged(self) -> str | None:
        """None while it is under way; empty once a swap can use it; else why not."""
        mapped = self.rollstream_mapped
        return "nothing is staged" if mapped is None else mapped.problem

    def rollstream_unstage(self) -> bool:
        """Forget what is staged. Returns whether its memory stays pinned, for the next checkpoint."""
        mapped, self.rollstream_mapped = self.rollstream_mapped, None
        if mapped is None:
            return False
        if mapped.pinned:
            self.rollstream_spare = mapped
        else:
            mapped.close()
        return mapped.pinned

    def rollstream_staged_tensors(self) -> Iterator[tuple[str, Any]]:
        """What a swap loads. Raises `RuntimeError` if it is not there."""
        if self.rollstream_mapped is None:
            raise RuntimeError("nothing is staged")
        return self.rollstream_mapped.tensors()
