"""Seeds follow only from the batch's seed, the row and the place in a sample, not from worker, delivery or job."""

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


def rest_seed(seed: int, position: int) -> int:
    """The seed of what comes after the first `position` tokens of a sample whose own seed is `seed`.

    It is another draw than the one that an undisturbed request makes there, because an engine's generator has no
    position to go on from; but it is the same on any worker, so a sample that is continued twice at one place is too.
    """
    digest = blake2b(f"{seed}:{position}".encode(), digest_size=8, person=b"rollstream-rest").digest()
    return int.from_bytes(digest, "little") % MAX_SEED
