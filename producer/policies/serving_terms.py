"""What a publish says beside the weights: which probe proves them, and when workers serve them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, cast, get_args

from rollstream.schemas import Activate, PolicyVersion, Probe
from rollstream.schemas.hashes.runs import RunFence
from rollstream.schemas.wire.policies import When

from ..errors import ArgumentError
from ..probes.errors import ProbeError
from ..probes.probe_of import check_enough

_ACTIVATE = 'give "at_once", "by_hand", or Activate(when="when_prepared", share=..., timeout_s=...)'
AT_ONCE = Activate()


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingTerms:
    """How one version is to be proven and activated; no part of its content."""

    probe: Probe | None = None
    activate: Activate = AT_ONCE
    fence: RunFence | None = None
    """The run through which it is published, whose trainer must still have it."""

    @classmethod
    def of(cls, probe: object, activate: object, fence: RunFence | None = None) -> Self:
        """Check both arguments of a publish. Raises `ProbeError`, `ArgumentError`."""
        if not isinstance(probe, Probe | None):
            raise ProbeError(f"give what make_probe(model, tokenizer) returns, not some {type(probe).__name__}")
        if probe is not None:
            check_enough(probe)
        return cls(probe=probe, activate=_activate(activate), fence=fence)

    def applied(self, announcement: PolicyVersion) -> PolicyVersion:
        """The announcement with these terms, and with the names that a worker must know for all that it says."""
        said = announcement.model_copy(update={"probe": self.probe, "activate": self.activate})
        return said.model_copy(update={"requires": said.needs})

    def check_fits(self, config: Mapping[str, Any]) -> None:
        """Raises `ProbeError` if a model with this `config.json` cannot score the probe."""
        if self.probe is None:
            return
        text = config.get("text_config")
        fields = {**config, **text} if isinstance(text, dict) else config
        vocab_size, longest = fields.get("vocab_size"), int(self.probe.row_lengths.numpy().max())
        if type(vocab_size) is int and vocab_size != self.probe.vocab_size:
            problem = f"is of a vocabulary of {self.probe.vocab_size}, the checkpoint's is {vocab_size}"
            raise ProbeError(f"{problem}: make it with the model that is published")
        places = _positions(fields)
        if places is not None and longest > places:
            problem = f"has a row of {longest} ids, and a model of {places} positions scores at most {places}"
            raise ProbeError(f"{problem}: make it with max_tokens={places}, or of shorter rows")


def _activate(given: object) -> Activate:
    if isinstance(given, str) and given in get_args(When):
        return Activate(when=cast("When", given))
    if not isinstance(given, Activate):
        raise ArgumentError("activate", given, _ACTIVATE)
    if given.when != "when_prepared" and (given.share, given.timeout_s) != (1.0, None):
        raise ArgumentError("activate", given.when, "share and timeout_s are for when_prepared: leave them out")
    return given


def _positions(config: Mapping[str, Any]) -> int | None:
    """How many positions the model was made for; None if its config does not say, or rotary scaling gives it more."""
    rotary = config.get("rope_scaling") or config.get("rope_parameters")
    if isinstance(rotary, dict) and rotary.get("rope_type", rotary.get("type", "default")) != "default":
        return None
    told = config.get("max_position_embeddings", config.get("n_positions"))
    return told if type(told) is int else None
