"""New weights become a policy version: one entry of the versions stream, in which Redis lets ids only grow.

The entry is the last thing that a publish writes. A publish that ends before it leaves nothing that a worker takes,
only a folder, or an adapter under a name of its own that expires.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from rollstream.schemas import Keys, PolicyVersion
from rollstream.schemas.entry_id import MAX_VERSION
from rollstream.schemas.hashes.runs import RunFence
from rollstream.schemas.keys import POLICY_ADAPTER
from rollstream.schemas.wire.policies import VersionSource

from ..calls.arguments import number
from ..probes.errors import ProbeError
from ..progress import byte_bar
from ..redis_io.connection import Connection
from .activation import newest_version
from .adapter_expiry import expire_superseded
from .adapter_files import AdapterFiles, AdapterSource, read_adapter
from .adapter_tensors import Scaling
from .adapter_upload import renew, upload
from .checkpoint_files import CheckpointFolder
from .errors import AdapterError, PolicyVersionError
from .provable import check_provable
from .publish_options import PublishOptions
from .serving_terms import ServingTerms
from .versions_stream import RECENT, announce, announced_version, announced_versions, check_publishable, read_version

_PADDING = b" "
"""Added to the config of a policy version's adapter, so that no other adapter has its digest and its chunks: these
expire soon after the next version."""
Keep = Callable[[int, PolicyVersion], Awaitable[None]]
"""Raises `PolicyVersionError` if the weight store has not all of the older version whose weights become this one."""
_TERMS = frozenset({"again", "base", "probe", "activate", "progress"})
"""Options that give no weights."""


async def publish_policy(
    connection: Connection,
    keys: Keys,
    version: int,
    options: PublishOptions,
    *,
    keep: Keep | None = None,
    fence: RunFence | None = None,
) -> PolicyVersion:
    """See `AsyncClient.publish_policy`; `options` has all of `PublishOptions`.

    `keep`: of the client's weight store; `fence`: the run through which it is published.
    """
    check_version(version)
    checkpoint, adapter, progress = options["checkpoint"], options["adapter"], options["progress"]
    if options["again"] is not None:
        terms = ServingTerms.of(options["probe"], options["activate"], fence)
        return await _publish_again(connection, keys, version, options, terms, keep)
    if (checkpoint is None) == (adapter is None):
        given = "neither" if adapter is None else "both"
        problem = f"give its weights as checkpoint=, adapter=, state_dict= or model=, not {given}"
        raise PolicyVersionError(version, problem)
    scaling = Scaling(
        lora_alpha=number(options["lora_alpha"]),
        use_rslora=options["use_rslora"],
        peft_config=options["peft_config"],
    )
    terms = ServingTerms.of(options["probe"], options["activate"], fence)
    if type(options["base"]) is int:
        problem = f"base={options['base']}: a delta goes through the weight store alone: use state_dict=, or store=True"
        raise PolicyVersionError(version, f"{problem}, or leave it out")
    if adapter is not None:
        announcement = await _ship(connection, keys, version, adapter, scaling, progress=progress)
    else:
        folder = _folder(version, checkpoint, scaling)
        await check_publishable(connection, keys, version, "checkpoint")
        announcement = await _read_checkpoint(version, folder, terms, progress=progress)
    return await announce_weights(connection, keys, announcement, terms)


async def announce_weights(
    connection: Connection, keys: Keys, weights: PolicyVersion, terms: ServingTerms
) -> PolicyVersion:
    """Announce weights that workers can reach by now, to be proven and activated by `terms`.

    Returns what is in the stream. Raises `ProbeError`, `PolicyVersionError`, `PolicyKindError`,
    `RedisUnavailableError`.
    """
    await check_provable(connection, keys, terms.probe)
    await check_publishable(connection, keys, weights.version, weights.source)  # others published meanwhile
    announced = await announce(connection, keys, terms.applied(weights), terms.fence)
    if weights.source == "adapter":
        recent = await announced_versions(connection, keys, RECENT)
        readable = [one.announcement for one in recent if one.announcement is not None]
        await expire_superseded(connection, keys, readable, await newest_version(connection, keys))
    return announced


async def _why_not_there(connection: Connection, keys: Keys, version: int) -> str:
    newest = await announced_version(connection, keys)
    if version > newest:
        return f"nobody has announced version {version}, the newest is {newest}"
    return f"version {version} is not in the versions stream any more"


async def _publish_again(
    connection: Connection,
    keys: Keys,
    version: int,
    options: PublishOptions,
    terms: ServingTerms,
    keep: Keep | None,
) -> PolicyVersion:
    """Announce the weights of a version that the stream still has under a new number."""
    older = number(options["again"])
    others = [name for name, value in options.items() if name not in _TERMS and value not in (None, False)]
    if others:
        raise PolicyVersionError(version, f"{others[0]}= gives other weights than again={older!r}: leave one out")
    check_version(older)
    found = await read_version(connection, keys, older)
    before = None if found is None else found.announcement
    if found is None or before is None:
        problem = await _why_not_there(connection, keys, older) if found is None else found.problem
        raise PolicyVersionError(version, f"{problem}: publish its weights themselves")
    if found.problem:  # announced by this release, it would lose what it requires
        raise PolicyVersionError(version, f"version {older} cannot be announced again: {found.problem}")
    if before.source == "adapter" and before.transport == "folder":
        await _keep_adapter(connection, keys, version, before)
    transport = "store" if before.transport == "nccl" else before.transport  # a round is over; it filled the store too
    if transport == "store" and keep is not None:
        await keep(version, before)
    if terms.probe is None:
        terms = replace(terms, probe=before.probe)
    elif before.probe is not None and before.probe.vocab_size != terms.probe.vocab_size:
        problem = f"is of a vocabulary of {terms.probe.vocab_size}, and that of version {older} of"
        raise ProbeError(f"{problem} {before.probe.vocab_size}: make it with the weights of {older}")
    weights = before.model_copy(update={"version": version, "published_at": time.time(), "transport": transport})
    return await announce_weights(connection, keys, weights, terms)


async def _keep_adapter(connection: Connection, keys: Keys, version: int, before: PolicyVersion) -> None:
    """Let an adapter that would expire soon stay for another day. Raises `PolicyVersionError` if it is gone."""
    if not await renew(connection, keys, before.location, before.sha256):
        problem = f"Redis has the adapter of version {before.version} no more: publish its weights themselves"
        raise PolicyVersionError(version, problem)


def check_version(version: object) -> None:
    """Raises `PolicyVersionError` for what is no number of a version."""
    if type(version) is not int or not 1 <= version <= MAX_VERSION:
        raise PolicyVersionError(version, f"a version is an integer from 1 to {MAX_VERSION}")


def weights_of(version: int, source: VersionSource, location: str, sha256: str) -> PolicyVersion:
    """The announcement of weights at a place that workers know, published now, without any terms."""
    return PolicyVersion(version=version, source=source, location=location, sha256=sha256, published_at=time.time())


def _folder(version: int, checkpoint: object, scaling: Scaling) -> Path:
    if not isinstance(checkpoint, str | Path):
        raise PolicyVersionError(version, f"checkpoint= is a folder's path, not some {type(checkpoint).__name__}")
    if scaling.given:
        given = scaling.given[0]
        raise PolicyVersionError(version, f"{given}= is for adapter= as tensors: leave it out beside checkpoint=")
    return Path(checkpoint)


async def _read_checkpoint(version: int, path: Path, terms: ServingTerms, *, progress: bool) -> PolicyVersion:
    folder = await asyncio.to_thread(CheckpointFolder, path)
    terms.check_fits(folder.config)
    with byte_bar(folder.name, folder.num_bytes, shown=progress) as advanced:
        digest = await asyncio.to_thread(folder.digest, advanced)
    return weights_of(version, "checkpoint", folder.name, digest)


async def _ship(
    connection: Connection, keys: Keys, version: int, adapter: AdapterSource, scaling: Scaling, *, progress: bool
) -> PolicyVersion:
    """Upload the adapter under a name that contains its digest.

    So two trainers, or one before and after a crash, never use one name for different content. The first to announce
    the version decides.
    """
    # Before anything else is awaited: this copies the tensors.
    files: AdapterFiles = await read_adapter(f"policy version {version}", adapter, scaling, _PADDING)
    if files.incomplete:
        raise AdapterError(files.name, files.incomplete)
    await check_publishable(connection, keys, version, "adapter")
    name = f"{POLICY_ADAPTER}{files.sha256[:16]}@{version}"
    await upload(connection, keys, name, files, progress=progress)
    return weights_of(version, "adapter", name, files.sha256)
