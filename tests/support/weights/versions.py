"""Policy versions for tests: checkpoints below one root, announcements that no producer makes, workers' reports."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Literal, cast

from redis.asyncio import Redis
from safetensors.torch import load_file, save_file

from rollstream import Client
from rollstream.producer.demo.tiny_model import write_model
from rollstream.schemas import GroupError, GroupResult, PolicyVersion, decode, encode
from rollstream.schemas.parked import ParkedFor
from rollstream.schemas.wire.policies import Activate, Activation
from rollstream.schemas.wire.proofs.probe import Probe
from rollstream.worker.adapters.folder import AdapterFolder
from rollstream.worker.adapters.supply import AdapterSupply
from rollstream.worker.checkpoints.supply import CheckpointSupply
from rollstream.worker.engine import Engine
from rollstream.worker.measure.measures import Measures
from rollstream.worker.rounds.receiver import RoundReceiver
from rollstream.worker.versions.follower import VersionFollower
from rollstream.worker.versions.make_follower import make_follower
from rollstream.worker.versions.proofs import Proofs
from rollstream.worker.weights import checkpoint
from tests.support.faults import Queue, audit
from tests.support.worker_process import WorkerProcess, wait_for

AT_ONCE, BY_HAND = Activate(), Activate(when="by_hand")


def write_steps(root: Path, *steps: int) -> Path:
    """Checkpoints `step-<n>` of the tiny model; gives `root`."""
    for step in steps:
        write_model(root / f"step-{step}", seed=100 + step, tokenizer=False)
    return root


def follower_of(
    redis: Redis,
    queue: Queue,
    engine: Engine,
    checkpoints: Path | CheckpointSupply | None = None,
    proofs: Proofs | None = None,
    rounds: RoundReceiver | None = None,
) -> VersionFollower:
    """A follower of the queue's versions without a worker around it and without adapters."""
    supply = checkpoints if isinstance(checkpoints, CheckpointSupply) else CheckpointSupply(folder=checkpoints)
    adapters = AdapterSupply(engine=engine, folder=AdapterFolder(root=None, max_rank=16, model=None), store=None)
    return make_follower(
        redis=redis,
        keys=queue.keys,
        engine=engine,
        adapters=adapters,
        checkpoints=supply,
        proofs=proofs or Proofs(),
        swap="keep",
        changed=lambda: None,
        measures=Measures(),
        rounds=rounds,
    )


def shard(folder: Path) -> Path:
    """Spread the weights of a model over two files and an index, in place; gives `folder`."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    # Every second tensor, so that every layer is in both files.
    weight_map = {}
    for number, names in enumerate((sorted(weights)[::2], sorted(weights)[1::2]), start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: weights[name] for name in names}, folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(names, file))
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def publish(client: Client, root: Path, *versions: int) -> None:
    """Checkpoints that `write_steps` wrote."""
    for version in versions:
        client.publish_policy(version, checkpoint=root / f"step-{version}")


def announce(
    queue: Queue,
    version: int,
    location: str,
    sha256: str = "0" * 64,
    source: Literal["checkpoint", "adapter"] = "checkpoint",
    says: int | None = None,
    requires: tuple[str, ...] = (),
    *,
    activate: Activate = AT_ONCE,
    probe: Probe | None = None,
) -> None:
    """Whatever it is; `says`: the version in the message, where it is not that of the entry."""
    message = PolicyVersion(
        version=says or version, source=source, location=location, sha256=sha256, published_at=time.time(),
        activate=activate, probe=probe,
    )  # fmt: skip
    message = message.model_copy(update={"requires": (*requires, *message.needs)})
    queue.redis.xadd(queue.keys.versions(), {"payload": encode(message)}, id=f"{version}-0")


def announce_step(
    queue: Queue, root: Path, version: int, activate: Activate = AT_ONCE, probe: Probe | None = None, step: int = 0
) -> None:
    """The checkpoint `step-<step>` as a version; `step` 0: that of its number."""
    location = f"step-{step or version}"
    announce(queue, version, location, checkpoint.digest(root / location), activate=activate, probe=probe)


def activate_by_hand(queue: Queue, version: int) -> None:
    """As a trainer's activation that `activate.lua` took."""
    entries = cast("list[tuple[bytes, dict[bytes, bytes]]]", queue.redis.xrange(queue.keys.versions()))
    announced = dict(entries)[f"{version}-0".encode()]
    sha256 = decode(announced[b"payload"], PolicyVersion).sha256
    payload = encode(Activation(version=version, by="test", at=time.time(), sha256=sha256))
    queue.redis.xadd(queue.keys.activations(), {"payload": payload, "sha256": sha256}, id=f"{version}-0")


def report(worker: WorkerProcess, queue: Queue) -> dict[str, str]:
    """The worker's heartbeat; empty when there is none."""
    mine = f"-{worker.process.pid}-"
    for key in queue.redis.scan_iter(queue.keys.worker("*")):
        if mine in key.decode():
            fields = cast("dict[bytes, bytes]", queue.redis.hgetall(key))
            return {name.decode(): value.decode() for name, value in fields.items()}
    return {}


def wait_until_reported(worker: WorkerProcess, queue: Queue, timeout_s: float = 30, **fields: str) -> None:
    wait_for(
        lambda: fields.items() <= report(worker, queue).items(),
        timeout_s,
        lambda: f"no {fields} in {report(worker, queue)}\n{worker.log}",
    )


def wait_until_serves(worker: WorkerProcess, queue: Queue, version: int, timeout_s: float = 30) -> None:
    wait_until_reported(worker, queue, timeout_s, policy_version=str(version), policy_error="")


def wait_until_refused(worker: WorkerProcess, queue: Queue, version: int, why: str) -> None:
    """It has heard of `version` and does not serve it because of `why`."""

    def refused() -> bool:
        seen = report(worker, queue)
        return seen.get("newest_version") == str(version) and why in seen.get("policy_error", "")

    wait_for(refused, 30, lambda: f"not refused for {why!r}: {report(worker, queue)}\n{worker.log}")


def wait_until_parked(worker: WorkerProcess, queue: Queue, version: int, count: int = 1) -> None:
    def parked() -> bool:
        holders = list(queue.holders().values())
        return [found.consumer for found in holders].count(ParkedFor(version).consumer) == count

    wait_for(parked, 30, lambda: f"{queue.holders()}\n{worker.log}")


def spans(redis_url: str, queue: Queue, batch_id: str, groups: int) -> list[tuple[tuple[int, int], ...]]:
    """The version spans of each completion of a fully answered batch, after an audit; they add up to its tokens."""
    found = []
    for answer in audit(redis_url, queue.keys.policy, batch_id, groups):
        assert isinstance(answer, GroupResult), answer
        for of_one, length in zip(answer.version_spans, answer.lengths.numpy(), strict=True):
            assert sum(tokens for _, tokens in of_one) == length
            found.append(of_one)
    return found


def codes(redis_url: str, queue: Queue, batch_id: str, groups: int) -> list[str | None]:
    """The error code of each group, None if it has a result."""
    answers = audit(redis_url, queue.keys.policy, batch_id, groups)
    return [answer.code if isinstance(answer, GroupError) else None for answer in answers]
