"""An adapter goes into Redis chunk by chunk, its manifest last: what can be found is complete, and never changes."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from producer.connection import Connection
from producer.policy_errors import AdapterConflictError, AdapterError
from schemas import AdapterManifest, Keys, SchemaError, decode, encode

CHUNK_BYTES = 4 * 2**20
MAX_ADAPTER_BYTES = 2**30
"""Workers have a ceiling of their own, `--max-adapter-bytes`."""
ADAPTER_TTL_S = 86_400
"""Workers that use an adapter renew this."""

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """A LoRA adapter in PEFT's format, read once: `config` is the JSON file, `weights` the safetensors file."""

    name: str
    config: bytes
    weights: bytes | memoryview

    @property
    def sha256(self) -> str:
        """Over config, then weights."""
        digest = hashlib.sha256(self.config)
        digest.update(self.weights)
        return digest.hexdigest()

    def chunks(self) -> Iterator[bytes | memoryview]:
        """The weights in pieces of `CHUNK_BYTES`, not copied."""
        view = memoryview(self.weights)
        return (view[start : start + CHUNK_BYTES] for start in range(0, len(view), CHUNK_BYTES))


def read_adapter(name: str, source: Path | str | Mapping[str, Any], lora_alpha: float | None) -> AdapterFiles:
    """From PEFT's folder, or from a state dict of `...lora_A.weight` (r, in) and `...lora_B.weight` (out, r) tensors.

    Raises `AdapterError`.
    """
    files = _of_state_dict(name, source, lora_alpha) if isinstance(source, Mapping) else _of_folder(name, Path(source))
    if not 0 < len(files.weights) <= MAX_ADAPTER_BYTES:
        raise AdapterError(name, f"{len(files.weights)} bytes of weights; at most {MAX_ADAPTER_BYTES} travel")
    return files


def _of_folder(name: str, folder: Path) -> AdapterFiles:
    try:
        return AdapterFiles(name, (folder / CONFIG_FILE).read_bytes(), (folder / WEIGHTS_FILE).read_bytes())
    except OSError as error:
        problem = f"{folder} needs {CONFIG_FILE} and {WEIGHTS_FILE}, as PEFT's save_pretrained writes them: {error}"
        raise AdapterError(name, problem) from None


def _of_state_dict(name: str, tensors: Mapping[str, Any], lora_alpha: float | None) -> AdapterFiles:
    from safetensors.torch import save  # noqa: PLC0415 - loads torch, which the producer does without until asked

    if lora_alpha is None:
        raise AdapterError(name, "a state dict does not hold lora_alpha: pass it")
    stems = {tensor: tensor.removesuffix(".weight").rpartition(".") for tensor in tensors}
    if strange := [tensor for tensor, (_, _, part) in stems.items() if part not in {"lora_A", "lora_B"}]:
        raise AdapterError(name, f"tensor {strange[0]!r} is no LoRA weight: names end in lora_A or lora_B.weight")
    ranks = {int(tensors[tensor].shape[0]) for tensor, (_, _, part) in stems.items() if part == "lora_A"}
    if len(ranks) != 1:
        raise AdapterError(name, f"all lora_A tensors need one rank, found {sorted(ranks)}")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": ranks.pop(),
        "lora_alpha": lora_alpha,
        "target_modules": sorted({module.rpartition(".")[2] for module, _, _ in stems.values()}),
        "bias": "none",
    }
    weights = save({tensor: value.detach().cpu().contiguous() for tensor, value in tensors.items()})
    return AdapterFiles(name, json.dumps(config, sort_keys=True).encode(), weights)


async def upload(connection: Connection, keys: Keys, files: AdapterFiles) -> AdapterManifest:
    """Publish the adapter; publishing the same content again only renews it.

    Raises `AdapterConflictError` when the name has other content, `RedisUnavailableError`.
    """
    key = keys.adapter(files.name)
    manifest = AdapterManifest(
        name=files.name,
        sha256=files.sha256,
        config=files.config,
        num_bytes=len(files.weights),
        chunk_bytes=CHUNK_BYTES,
        published_at=time.time(),
    )
    for number, chunk in enumerate(files.chunks()):
        blob = keys.blob(manifest.sha256, number)
        await connection.call("publish an adapter", _setting(blob, bytes(chunk)))
    await connection.call(
        "publish an adapter", lambda redis: redis.set(key, encode(manifest), nx=True, ex=ADAPTER_TTL_S)
    )
    data: Any = await connection.call("read a manifest", lambda redis: redis.getex(key, ex=ADAPTER_TTL_S))
    return _same(files, manifest, data)


def _setting(key: str, value: bytes) -> Any:
    def send(redis: Redis) -> Any:
        return redis.set(key, value, ex=ADAPTER_TTL_S)

    return send


def _same(files: AdapterFiles, manifest: AdapterManifest, data: bytes | None) -> AdapterManifest:
    try:
        found = decode(data or b"", AdapterManifest)
    except SchemaError as error:
        raise AdapterError(files.name, f"what Redis holds under its name is no manifest: {error}") from None
    if found.sha256 != manifest.sha256:
        raise AdapterConflictError(files.name)
    return found
