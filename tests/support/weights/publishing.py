"""What a trainer publishes, made, and read back past the producer; workers that only report."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import torch
from safetensors.torch import load, save_file

from rollstream import PolicyVersion
from rollstream.schemas import AdapterManifest, decode
from tests.support.faults import Link, Queue
from tests.support.reports import report_of

STEM = "base_model.model.model.layers.0.self_attn.q_proj"
A, B = f"{STEM}.lora_A.weight", f"{STEM}.lora_B.weight"


def lora(seed: int = 0, width: int = 32, rank: int = 4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        f"{STEM}.lora_A.weight": torch.randn((rank, width), generator=generator),
        f"{STEM}.lora_B.weight": torch.randn((width, rank), generator=generator),
    }


def peft_folder(folder: Path, tensors: dict[str, torch.Tensor], alpha: float = 8.0) -> Path:
    folder.mkdir()
    rank = next(iter(tensors.values())).shape[0]
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "bias": "none", "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


def announced(queue: Queue) -> list[tuple[str, PolicyVersion]]:
    entries = cast("list[tuple[bytes, dict[bytes, bytes]]]", queue.redis.xrange(queue.keys.versions()))
    return [(entry_id.decode(), decode(fields[b"payload"], PolicyVersion)) for entry_id, fields in entries]


def read_back(queue: Queue, name: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The adapter's config and tensors, after checking its digest."""
    manifest = decode(cast("bytes", queue.redis.get(queue.keys.adapter(name))), AdapterManifest)
    chunks = [cast("bytes", queue.redis.get(queue.keys.blob(manifest.sha256, n))) for n in range(manifest.chunks)]
    weights = b"".join(chunks)
    assert hashlib.sha256(manifest.config + weights).hexdigest() == manifest.sha256
    assert len(weights) == manifest.num_bytes
    return json.loads(manifest.config), load(weights)


def manifests(queue: Queue) -> list[bytes]:
    """Keys of all adapters."""
    return list(queue.redis.scan_iter(match=queue.keys.adapter("x@0").removesuffix("x@0") + "*"))


def blobs(queue: Queue) -> list[bytes]:
    """Keys of all chunks."""
    return sorted(queue.redis.scan_iter(match=queue.keys.blob("*", 0).removesuffix("0") + "*"))


async def until_cut(link: Link) -> None:
    """Return once `cut_after` has cut it."""
    async with asyncio.timeout(30):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", urlsplit(link.url).port)
            except ConnectionRefusedError:
                return
            writer.close()
            await asyncio.sleep(0.01)


def restore(link: Link) -> None:
    """After `cut_after`: let everything pass."""
    link.cut_after(2**40)
    link.restore()


def flush(queue: Queue) -> None:
    """Like FLUSHALL, but only for this policy."""
    queue.redis.delete(*queue.redis.scan_iter(match=f"rs:{{{queue.keys.policy}}}:*", count=1000))


def ttl(queue: Queue, key: bytes) -> int:
    """Seconds."""
    return queue.redis.ttl(key)


def reporting(queue: Queue, worker: str, version: int, ttl_ms: int = 60_000, **fields: str) -> None:
    """A worker's heartbeat, without a worker."""
    report: dict[Any, Any] = {"state": "serving", "policy_version": version, **fields}
    report_of(queue.redis, queue.keys, worker, report, ttl_ms / 1000)
