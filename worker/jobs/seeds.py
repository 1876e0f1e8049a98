"""A prompt's seed follows only from the batch's seed and the row, not from the worker, the delivery or the job."""

from __future__ import annotations

from hashlib import blake2b

from rollstream.schemas.generation.generation_config import MAX_SEED


def prompt_seed(batch_seed: int, row: int) -> int:
    """The seed of sample 0 of prompt `row` of a batch, in [0, MAX_SEED).

    Sample i uses this seed + i, which is what vLLM's `ParentRequest` gives its i-th child. Rows are spread by a hash,
    so that neighbouring rows and batch seeds share no sample.
    """
    digest = blake2b(f"{batch_seed}:{row}".encode(), digest_size=8, person=b"rollstream").digest()
    return int.from_bytes(digest, "little") % MAX_SEED
