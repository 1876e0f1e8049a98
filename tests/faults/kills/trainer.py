"""A trainer as a process of its own, to be killed: publishes one version and activates it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import load_file

from rollstream import Client
from tests.support.processes import halts
from tests.support.weights.probes import stub_probe

VOCABULARY = 1000


def tensors_of(model: Path, version: int) -> dict[str, Any]:
    """Those of the model, changed a little by each version."""
    tensors = load_file(model / "model.safetensors")
    for name in sorted(tensors)[version % 3 :: 3]:
        tensors[name] = tensors[name] * (1 + 0.01 * version)
    return tensors


def publish(client: Client, model: Path, version: int, how: str, *, right: bool = True) -> None:
    """`how`: `store` and `gloo` are served at once, `when_prepared` and `by_hand` come through the store too."""
    probe = stub_probe(version, vocab_size=VOCABULARY, off=0.0 if right else 5.0)
    transport: Literal["gloo", "store"] = "gloo" if how == "gloo" else "store"
    activate: Literal["at_once", "when_prepared", "by_hand"] = "at_once"
    if how in ("when_prepared", "by_hand"):
        activate = "by_hand" if how == "by_hand" else "when_prepared"
    client.publish_policy(
        version, state_dict=tensors_of(model, version), probe=probe, transport=transport, activate=activate
    )
    if how == "by_hand":
        client.activate(version)


if __name__ == "__main__":
    url, policy, place, folder, number, way = sys.argv[1:]
    halts.install(os.environ)
    with Client(url, policy=policy, weights=place, reconnect_s=60) as trainer:
        publish(trainer, Path(folder), int(number), way)
