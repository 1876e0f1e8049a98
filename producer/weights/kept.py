"""An older version that is announced again: all that its readers need must still be in the weight store."""

from __future__ import annotations

from rollstream.schemas import NameRefusedError, PolicyVersion
from rollstream.transport.weights import StoreProblem, WeightStore, WeightStoreError, read_chain

from ..policies.errors import PolicyVersionError
from .base import needs_of
from .upload import missing

_UNREADABLE = {StoreProblem.MISSING, StoreProblem.BROKEN}


async def keep_stored(store: WeightStore, version: int, older: PolicyVersion) -> None:
    """Let the items of `older` stay, whose weights become `version`.

    Raises `PolicyVersionError` if some are gone, `WeightStoreError` if the store cannot be asked.
    """
    try:
        chain = await read_chain(store, older.location)
    except NameRefusedError as error:
        raise _gone(store, version, older, str(error)) from None
    except WeightStoreError as error:
        if error.reason not in _UNREADABLE:
            raise
        raise _gone(store, version, older, f"{error.what}: {error.problem}") from None
    needed = {name: size for manifest in chain for name, size in needs_of(manifest).items()}
    if lost := await missing(store, needed):
        raise _gone(store, version, older, f"{len(lost)} of its {len(needed)} items are gone")
    await store.renew(needed)


def _gone(store: WeightStore, version: int, older: PolicyVersion, why: str) -> PolicyVersionError:
    problem = f"the content of version {older.version} is not in the weight store {store.where} any more ({why})"
    return PolicyVersionError(version, f"{problem}: publish its weights themselves")
