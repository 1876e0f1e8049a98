"""What a trainer does with the weights of its policy."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM

from rollstream import Activate, Client
from tests.support.fault_steps import tokens
from tests.support.faults import Queue
from tests.support.roles.place import Place
from tests.support.weights.versions import wait_until_serves
from tests.support.worker_process import WorkerProcess


def publish_weights(place: Place, client: Client, queue: Queue, worker: WorkerProcess) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(place.model, dtype=torch.float32)
    client.publish_policy(1, model=model)
    client.wait_for_version(1, timeout=30)
    with torch.no_grad():
        model.model.norm.weight += 0.5
    client.publish_policy(2, model=model, activate="by_hand")
    client.activate(2)
    wait_until_serves(worker, queue, 2)
    client.publish_policy(3, again=1, activate="by_hand")
    place.ok("activate", "3", "--weights", "redis")
    wait_until_serves(worker, queue, 3)
    client.publish_policy(4, again=2, activate=Activate(when="when_prepared", share=0.5))
    wait_until_serves(worker, queue, 4)
    with torch.no_grad():
        model.model.norm.weight += 0.5
    client.publish_policy(5, model=model, transport="gloo")
    wait_until_serves(worker, queue, 5)
    client.submit([[4]], None, tokens(2), min_policy_version=5).result(timeout=20)
