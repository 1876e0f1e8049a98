"""Whether the weight store still has what a version needs, asked before workers are told to serve it."""

from __future__ import annotations

from rollstream.schemas import PolicyVersion
from rollstream.transport.weights import StoreProblem, WeightStore, WeightStoreError, read_chain


async def lost_weights(store: WeightStore | None, announcement: PolicyVersion) -> str:
    """What is missing of it, in a few words; empty if nothing is, or if the weights do not come from `store`.

    Sizes are compared, not bytes. Raises `WeightStoreError` for a store that does not answer.
    """
    if store is None or announcement.transport == "folder":
        return ""
    try:
        manifests = await read_chain(store, announcement.location)
    except WeightStoreError as error:
        if error.reason in {StoreProblem.MISSING, StoreProblem.BROKEN}:
            return f"{store.where} has its weights no more ({error.problem})"
        raise
    needed = {chunk.sha256: chunk.num_bytes for one in manifests for chunk in one.chunks}
    found = await store.sizes(list(needed))
    lost = [name for name, size in needed.items() if found.get(name) != size]
    return f"{store.where} has its weights no more ({len(lost)} of {len(needed)} chunks are gone)" if lost else ""
