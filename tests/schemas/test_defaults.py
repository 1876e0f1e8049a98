"""A field at its default is not sent: its reader fills the default in, so a default never changes."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from rollstream.schemas import (
    Activate,
    Activation,
    AdapterManifest,
    Batch,
    DeadLetter,
    GenerationConfig,
    Golden,
    GoldenBatch,
    GroupError,
    GroupResult,
    Job,
    Origin,
    PolicyVersion,
    Probe,
    Sealed,
    Tolerance,
    WeightsManifest,
)

DEFAULTS: dict[type[BaseModel], dict[str, Any]] = {
    GenerationConfig: {
        "min_new_tokens": 0,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "num_return_sequences": 1,
        "num_beams": 1,
        "length_penalty": 1.0,
        "early_stopping": False,
        "eos_token_id": None,
        "stop_token_ids": (),
        "stop_strings": (),
        "include_stop_str_in_output": False,
        "ignore_eos": False,
        "bad_words": (),
        "logit_bias": {},
        "allowed_token_ids": None,
        "seed": None,
        "logprobs": "processed",
    },
    Batch: {"v": 1, "kind": "batch", "adapter": None, "lineage": (), "traceparent": None},
    Job: {
        "v": 1,
        "kind": "job",
        "adapter": None,
        "queue_deadline_s": None,
        "run_deadline_s": None,
        "min_policy_version": 0,
        "max_staleness": None,
        "seed_offset": 0,
        "lineage": (),
        "requires": (),
    },
    GroupResult: {
        "v": 1,
        "kind": "group",
        "logprobs": None,
        "logprobs_flavour": None,
        "texts": None,
        "scores": None,
        "spans_exact": True,
        "adapter": None,
        "delivery": 1,
        "forced_mask": None,
        "top_token_ids": None,
        "top_logprobs": None,
        "support_ids": None,
        "support_lengths": None,
        "sample_index": None,
        "cut_lengths": None,
        "resumed_at": None,
        "trace": None,
    },
    GroupError: {"v": 1, "kind": "error", "prompt": None},
    Sealed: {"v": 1, "kind": "sealed"},
    DeadLetter: {"v": 1, "kind": "dead", "traceback": ""},
    PolicyVersion: {
        "v": 1,
        "kind": "version",
        "requires": (),
        "transport": "folder",
        "base": None,
        "probe": None,
        "activate": Activate(when="at_once", share=1.0, timeout_s=None),
    },
    Activate: {"when": "at_once", "share": 1.0, "timeout_s": None},
    Activation: {"v": 1, "kind": "activation", "sha256": ""},
    Probe: {"v": 1, "kind": "probe", "tolerance": None},
    Tolerance: {},
    Golden: {"v": 1, "kind": "golden", "policy_sha256": "", "tolerance": None},
    GoldenBatch: {},
    AdapterManifest: {"v": 1, "kind": "adapter"},
    Origin: {},
    WeightsManifest: {
        "v": 1,
        "kind": "weights",
        "compression": "none",
        "base": None,
        "base_sha256": None,
        "chain": 0,
        "changed": 0,
    },
}
"""A new field adds a line. No line ever changes or goes."""


@pytest.mark.parametrize("model", DEFAULTS, ids=lambda model: model.__name__)
def test_a_default_never_changes(model: type[BaseModel]) -> None:
    fields = model.model_fields.items()

    assert {
        name: field.get_default(call_default_factory=True) for name, field in fields if not field.is_required()
    } == DEFAULTS[model]
