"""Rotary positions on vLLM's CPU build, whose kernel takes rows of all heads and turns anything else wrong.

Multi-head latent attention (DeepSeek) gives it parts of heads, `(T, heads, size)` with gaps between them: the kernel
counts as if there were none. So it gets copies. Runs inside vLLM's workers.
"""

from __future__ import annotations

from typing import Any


def give_rows(ops: Any) -> None:
    """Replace `rotary_embedding` in `ops`, vLLM's `_custom_ops`."""
    rotate = ops.rotary_embedding
    if hasattr(rotate, "gives_rows"):
        return

    def rotary_embedding(positions: Any, query: Any, key: Any, *args: Any, **kwargs: Any) -> None:
        rows = [part if _is_rows(part) else part.reshape(part.shape[0], -1).clone() for part in (query, key)]
        rotate(positions, *rows, *args, **kwargs)
        for part, row in zip((query, key), rows, strict=True):
            if row is not part:
                part.copy_(row.view(part.shape))

    rotary_embedding.gives_rows = True  # type: ignore[attr-defined] # a mark for the second call
    ops.rotary_embedding = rotary_embedding


def _is_rows(part: Any) -> bool:
    return part is None or part.dim() != 3
