"""Publishes a TRL trainer's weights after each optimizer step, so that the next rollouts are sampled with them.

Written against trl 1.16.0 and transformers 5, whose callbacks `GRPOTrainer(callbacks=[...])` takes.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from rollstream.schemas import Probe

from ..calls.arguments import number
from ..errors import ArgumentError, PublishingRefusedError
from ..policies.wait_for_version import Workers
from ..probes.make_probe import make_probe
from .trl import RolloutFunction

_ADAPTER = "default"
"""The name that PEFT and TRL give to the adapter that is trained."""


class PublishPolicy(TrainerCallback):  # type: ignore[misc] # transformers' types are not followed
    """Saves and publishes the weights, and lets the next rollouts wait for them: `GRPOTrainer(callbacks=[...])`.

    Without this callback workers sample with their boot model for as long as the training runs.

    When training begins, and after each optimizer step, the main process saves the model below `checkpoint_dir`, which
    is the workers' `--checkpoint-dir`, and publishes it as the next policy version; `rollout.min_policy_version`
    becomes that version in every process. Versions go on from the newest announced one, so a resumed run, or a second
    run of a policy, begins with its own weights too. `staleness`: how many versions older a worker's weights may be.

    `wait_for`: how many workers (or "all") must serve a version before training goes on, for at most `wait_s` seconds;
    None: training goes on at once, and the next rollouts wait for a worker that serves it. The newest `keep` folders
    stay; older ones that this run wrote are deleted.

    `probe`: each version is published with a probe, so that no completion leaves a worker that computes other log-probs
    than the trainer's model. True: of built-in texts by the trainer's tokenizer; rows of ids: of these; False: none. It
    costs one forward of 512 tokens in the main process.

    For a PEFT model the adapter named "default" is published, through the client's weight store or else Redis; workers
    need `--lora` and must have booted with the trainer's base model. The weights must be whole in the main process:
    DeepSpeed, FSDP and a PEFT model without that adapter raise `PublishingRefusedError` when training begins. Raises
    what `make_probe`, `Client.publish_policy` and `Client.wait_for_version` raise.
    """

    def __init__(
        self,
        rollout: RolloutFunction,
        *,
        checkpoint_dir: Path | str,
        keep: int = 3,
        staleness: int = 0,
        wait_for: Workers | None = None,
        wait_s: float | None = None,
        probe: bool | Sequence[Sequence[int]] = True,
    ) -> None:
        self._rollout = rollout
        self._folder = Path(checkpoint_dir)
        self._keep = _at_least(2, "keep", keep)  # a worker may still read the folder before the newest
        self._staleness = _at_least(0, "staleness", staleness)
        self._wait_for = wait_for
        self._wait_s = wait_s
        self._probe = probe
        self._run = secrets.token_hex(4)
        self._written: list[Path] = []
        self._first = self._version = 0

    @property
    def version(self) -> int:
        """The policy version published last; 0 before training."""
        return self._version

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002 - transformers'
        """Publish the weights with which training begins: workers may have booted with others."""
        _check_whole(args, kwargs["model"])
        self._first = 1 + self._newest(args, state)
        self._publish(self._first, state, kwargs["model"], kwargs.get("processing_class"))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002 - transformers'
        """Publish after each optimizer step, not after each micro-batch of an accumulated gradient."""
        self._publish(self._version + 1, state, kwargs["model"], kwargs.get("processing_class"))

    def _newest(self, args: Any, state: Any) -> int:
        newest = [self._rollout.client.announced_version() if state.is_world_process_zero else 0]
        if args.world_size > 1:  # every process counts on from the version that the main one has read
            import_module("accelerate.utils").broadcast_object_list(newest)
        return newest[0]

    def _publish(self, version: int, state: Any, model: Any, tokenizer: Any) -> None:
        if state.is_world_process_zero:
            probe = self._probe_of(model, tokenizer)
            folder = self._folder / f"v{version}-{self._run}"
            self._written.append(folder)
            if getattr(model, "peft_config", None):
                model.save_pretrained(folder, selected_adapters=[_ADAPTER])
                self._rollout.client.publish_policy(version, adapter=folder, probe=probe)
            else:
                model.save_pretrained(folder)
                self._rollout.client.publish_policy(version, checkpoint=folder, probe=probe)
            if self._wait_for is not None:
                self._rollout.client.wait_for_version(version, self._wait_for, self._wait_s)
            self._prune()
        self._version = version
        self._rollout.min_policy_version = max(self._first, version - self._staleness)

    def _probe_of(self, model: Any, tokenizer: Any) -> Probe | None:
        rows = tokenizer if self._probe is True else self._probe
        if rows is False:
            return None
        if rows is None:
            raise PublishingRefusedError("the trainer", "has no tokenizer to make a probe: give probe=rows of ids")
        return make_probe(model, rows)

    def _prune(self) -> None:
        while len(self._written) > self._keep:
            shutil.rmtree(self._written.pop(0), ignore_errors=True)


def _check_whole(args: Any, model: Any) -> None:
    spread = [name for name in ("deepspeed", "fsdp") if getattr(args, name, None)]
    if spread:
        problem = "spreads the weights over processes: save them there, publish_policy the folder, and set"
        raise PublishingRefusedError(spread[0], f"{problem} rollout.min_policy_version in a callback of your own")
    adapters = getattr(model, "peft_config", None)
    if adapters and _ADAPTER not in adapters:
        problem = f"has the adapters {', '.join(map(repr, adapters))} and none named {_ADAPTER!r}, which is published"
        raise PublishingRefusedError(type(model).__name__, problem)


def _at_least(least: int, name: str, value: object) -> int:
    given = number(value)
    if type(given) is not int or given < least:
        raise ArgumentError(name, value, f"give an integer from {least} on")
    return given
