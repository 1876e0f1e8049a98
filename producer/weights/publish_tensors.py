"""`publish_policy` for weights that go through the weight store: which tensors, then the store, then the stream."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

from rollstream.schemas import Keys, PolicyVersion
from rollstream.schemas.hashes.runs import RunFence

from ..errors import ArgumentError
from ..policies.checkpoint_files import CheckpointFolder
from ..policies.errors import PolicyVersionError
from ..policies.provable import check_provable
from ..policies.publish_options import PublishOptions
from ..policies.publish_policy import announce_weights, check_version
from ..policies.serving_terms import ServingTerms
from ..policies.versions_stream import check_publishable
from ..progress import byte_bar
from ..redis_io.connection import Connection
from ..rounds.outgoing import Outgoing
from ..rounds.round_options import RoundOptions
from .adapters import publish_stored_adapter
from .choice import check_base
from .folder_tensors import folder_tensors
from .model_tensors import Tensors, cast_dtype, copied, published, state_of
from .publisher import WeightsPublisher
from .sending import announce_in_round

_SOURCES = ("checkpoint", "adapter", "state_dict", "model", "again")


def goes_to_store(options: PublishOptions, *, has_store: bool) -> bool:
    """Whether these weights go through the weight store. An adapter does where there is one, else through Redis."""
    if options["again"] is not None:
        return False
    if options["state_dict"] is not None or options["model"] is not None or options["transport"] is not None:
        return True
    return has_store and options["adapter"] is not None if options["store"] is None else options["store"]


async def publish_tensors(
    connection: Connection,
    keys: Keys,
    version: int,
    options: PublishOptions,
    *,
    publisher: WeightsPublisher | None,
    fence: RunFence | None = None,
) -> PolicyVersion:
    """See `AsyncClient.publish_policy`; `options` has all of `PublishOptions`."""
    check_version(version)
    publisher = _checked(version, publisher, options)
    if options["adapter"] is not None:
        return await publish_stored_adapter(connection, keys, version, options, publisher=publisher, fence=fence)
    check_base(version, options["base"])
    terms = ServingTerms.of(options["probe"], options["activate"], fence)
    # Before anything is awaited: the trainer's next step changes the tensors.
    dtype, live = _cast(options), _of_model(version, options, terms)
    tensors = None if live is None else copied(version, live, dtype)
    announce = partial(_announce, connection, keys, terms)
    if (rounds := _rounds(version, options, terms)) is not None and live is not None:
        load = Outgoing(tensors=live, backend=rounds.backend, dtype=dtype)
        announce = partial(announce_in_round, connection, keys, terms, rounds, load)
    async with publisher.turn:
        await check_provable(connection, keys, terms.probe)
        await check_publishable(connection, keys, version, "checkpoint")
        if tensors is None:
            tensors = await _of_folder(options["checkpoint"], terms, progress=options["progress"])
        return await publisher.publish(version, tensors, options["base"], announce, progress=options["progress"])


async def _announce(
    connection: Connection, keys: Keys, terms: ServingTerms, announcement: PolicyVersion
) -> PolicyVersion:
    return await announce_weights(connection, keys, announcement, terms)


def _checked(version: int, publisher: WeightsPublisher | None, options: PublishOptions) -> WeightsPublisher:
    given = [name for name in _SOURCES if options.get(name) is not None]
    if len(given) != 1:
        told = " and ".join(f"{name}=" for name in given) or "nothing"
        raise PolicyVersionError(version, f"give its weights as one of {', '.join(_SOURCES)}, not {told}")
    if given == ["adapter"] and options["transport"] is not None:
        problem = "an adapter goes through the weight store or Redis: leave it out"
        raise ArgumentError("transport", options["transport"], problem)
    if publisher is None:
        problem = 'the client knows no weight store: make it with weights="redis", a folder or a URL'
        raise PolicyVersionError(version, problem)
    for name in ("lora_alpha", "use_rslora", "peft_config") if given != ["adapter"] else ():
        if options.get(name) is not None:
            raise PolicyVersionError(version, f"{name}= is for adapter=: leave it out beside {given[0]}=")
    return publisher


def _cast(options: PublishOptions) -> str | None:
    dtype = cast_dtype(options["dtype"])
    if dtype is not None and options["checkpoint"] is not None:
        raise ArgumentError("dtype", options["dtype"], "a folder is sent as it is: save it in that dtype")
    return dtype


def _of_model(version: int, options: PublishOptions, terms: ServingTerms) -> dict[str, Any] | None:
    """The tensors of a model or a state dict, which training changes; None if a folder was given."""
    if options["checkpoint"] is not None:
        return None
    config: Any = getattr(options["model"], "config", None)
    if hasattr(config, "to_dict"):
        terms.check_fits(config.to_dict())
    return published(version, state_of(version, options["state_dict"], options["model"]))


def _rounds(version: int, options: PublishOptions, terms: ServingTerms) -> RoundOptions | None:
    rounds = RoundOptions.of(options["transport"])
    if rounds is None:
        return None
    if options["checkpoint"] is not None:
        raise PolicyVersionError(version, "transport= sends a model= or a state_dict= from memory: leave it out")
    if terms.activate.when != "at_once":
        problem = "what is sent in a round is served at once: publish with the store alone, which workers prepare"
        raise ArgumentError("activate", terms.activate.when, problem)
    return rounds


async def _of_folder(checkpoint: Path | str | None, terms: ServingTerms, *, progress: bool) -> Tensors:
    path = Path(str(checkpoint))
    folder = await asyncio.to_thread(CheckpointFolder, path)
    terms.check_fits(folder.config)
    with byte_bar("reading", folder.num_bytes, shown=progress) as advanced:
        return await asyncio.to_thread(lambda: folder_tensors(folder, path.resolve(), advanced))
