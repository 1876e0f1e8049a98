"""What a golden file was recorded with, and whether its weights can be those of a worker. Pure."""

from __future__ import annotations

from ..wire.proofs.golden import Golden


def made_with(runs_on: str, dtype: str) -> str:
    """An engine in a few words, for people."""
    return f"{runs_on or 'an unknown engine'} in {dtype or 'an unknown dtype'}"


def recorded_with(golden: Golden) -> str:
    """The engine that the file was recorded with."""
    return made_with(golden.runs_on, golden.dtype)


def other_model(golden: Golden, *, model: str, vocab_size: int | None) -> str:
    """Why the file cannot be about this model; empty if it may be.

    Boot models are known by the names of their folders, later versions by their digests.
    """
    if golden.policy_version == 0 and golden.model != model:
        return f"it was recorded with the model {golden.model!r}, this one is {model!r}"
    if golden.vocab_size != vocab_size:
        return f"its model knows {golden.vocab_size} ids, this one {vocab_size}"
    return ""


def version_of(golden: Golden) -> str:
    """The version that sampled it, for people."""
    if golden.policy_version == 0:
        return "version 0, the boot model"
    return f"version {golden.policy_version} ({golden.policy_sha256[:12]})"
