"""How a version is proven and activated is announced with it, and what cannot be is refused before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgpack
import pytest

from rollstream import (
    Activate,
    ArgumentError,
    AsyncClient,
    OptionError,
    PolicyVersion,
    Probe,
    ProbeError,
    Tolerance,
    WireError,
)
from rollstream.producer.policies.serving_terms import ServingTerms
from rollstream.producer.probes.probe_of import probe_of
from rollstream.schemas import decode
from tests.support.faults import Queue
from tests.support.weights.publishing import announced, lora

ROWS, LOGPROBS = [list(range(5, 20)), [8, 9, 10]], [[-1.0] * 14, [-0.5, -2.0]]
TINY_VOCABULARY = 512


def probe(vocab_size: int = TINY_VOCABULARY, length: int = 17) -> Probe:
    return probe_of([[1] * length], [[-1.0] * (length - 1)], vocab_size=vocab_size)


async def test_a_version_says_what_a_worker_must_know_to_serve_it(
    trainer: AsyncClient, models: Path, queue: Queue
) -> None:
    given = probe_of(ROWS, LOGPROBS, vocab_size=TINY_VOCABULARY, tolerance=Tolerance(mean=0.5, largest=1.0))
    share = Activate(when="when_prepared", share=0.5, timeout_s=60)
    await trainer.publish_policy(1, checkpoint=models / "step-1", probe=given, activate=share)
    await trainer.publish_policy(2, checkpoint=models / "step-1", activate="by_hand")
    await trainer.publish_policy(3, checkpoint=models / "step-1", activate="at_once")

    (_, first), (_, second), (_, third) = announced(queue)
    assert (first.probe, first.activate, first.requires) == (given, share, ("activate", "probe"))
    assert [(ids, known.tolist()) for ids, known in given.rows] == list(zip(ROWS, LOGPROBS, strict=True))
    assert (second.probe, second.activate.when, second.requires) == (None, "by_hand", ("activate",))
    assert (third.activate, third.requires) == (Activate(), ())


async def test_an_adapter_is_proven_and_activated_too(trainer: AsyncClient, queue: Queue) -> None:
    await trainer.publish_policy(1, adapter=lora(), lora_alpha=8, probe=probe(), activate="by_hand")
    ((_, only),) = announced(queue)
    assert (only.probe, only.activate.when, only.requires) == (probe(), "by_hand", ("activate", "probe"))


async def test_a_publish_repeated_with_other_terms_is_a_no_op(trainer: AsyncClient, models: Path, queue: Queue) -> None:
    first = await trainer.publish_policy(1, checkpoint=models / "step-1", probe=probe(), activate="by_hand")
    again = await trainer.publish_policy(1, checkpoint=models / "step-1")
    assert (again, [one for _, one in announced(queue)]) == (first, [first])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"probe": probe(vocab_size=513)}, "a vocabulary of 513, the checkpoint's is 512: make it with the model"),
        ({"probe": probe(length=1025)}, "a row of 1025 ids, and a model of 1024 positions scores at most 1024"),
        ({"probe": probe(length=16)}, "it compares 15 log-probs, and at least 16 prove anything: give more rows"),
        ({"probe": [[1, 2]]}, r"give what make_probe\(model, tokenizer\) returns, not some list"),
    ],
    ids=["vocabulary", "length", "few", "kind"],
)
async def test_a_probe_that_proves_nothing_is_refused_before_the_announcement(
    trainer: AsyncClient, models: Path, queue: Queue, given: dict[str, Any], told: str
) -> None:
    with pytest.raises(ProbeError, match=told):
        await trainer.publish_policy(1, checkpoint=models / "step-1", **given)
    assert announced(queue) == []


async def test_a_row_of_the_longest_length_is_taken(trainer: AsyncClient, models: Path) -> None:
    config = json.loads((models / "step-1" / "config.json").read_text())
    assert (config["vocab_size"], config["max_position_embeddings"]) == (TINY_VOCABULARY, 1024)
    await trainer.publish_policy(1, checkpoint=models / "step-1", probe=probe(length=1024))


@pytest.mark.parametrize(
    ("config", "refused"),
    [
        ({"vocab_size": 512}, False),
        ({"vocab_size": 400, "text_config": {"vocab_size": 512}}, False),
        ({"vocab_size": 512, "text_config": {"vocab_size": 400}}, True),
        ({"n_positions": 20}, True),
        ({"max_position_embeddings": 20, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, False),
        ({"max_position_embeddings": 20, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, True),
        ({"max_position_embeddings": 20, "rope_parameters": {"rope_theta": 1e4}}, True),
        ({"max_position_embeddings": "many", "vocab_size": None}, False),
    ],
    ids=str,
)
def test_vocabulary_and_positions_are_read_where_configs_have_them(config: dict[str, Any], refused: bool) -> None:
    terms = ServingTerms.of(probe(length=21), "at_once")
    if refused:
        with pytest.raises(ProbeError):
            terms.check_fits(config)
    else:
        terms.check_fits(config)


@pytest.mark.parametrize(
    ("activate", "told"),
    [
        ("now", 'give "at_once", "by_hand"'),
        (None, 'give "at_once", "by_hand"'),
        (Activate(when="by_hand", timeout_s=5.0), "share and timeout_s are for when_prepared"),
        (Activate(share=0.5), "share and timeout_s are for when_prepared"),
    ],
    ids=str,
)
async def test_an_activation_that_means_nothing_is_refused(
    trainer: AsyncClient, models: Path, queue: Queue, activate: Any, told: str
) -> None:
    with pytest.raises(ArgumentError, match=told):
        await trainer.publish_policy(1, checkpoint=models / "step-1", activate=activate)
    assert announced(queue) == []


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"when": "when_prepared", "share": 2}, "Activate: share: Input should be less than or equal to 1, got 2"),
        ({"when": "when_prepared", "share": "all"}, "Activate: share: .* valid number, got 'all'"),
        ({"when": "soon"}, "Activate: when: .*'by_hand', got 'soon'"),
        ({"timeout": 3.0}, "Activate: timeout: unknown name; there are when, share, timeout_s"),
    ],
    ids=str,
)
def test_terms_out_of_bounds_are_one_error_that_names_the_field(given: dict[str, Any], told: str) -> None:
    with pytest.raises(OptionError, match=f"^{told}"):
        Activate(**given)


def test_a_message_may_have_terms_of_a_newer_release_and_none_out_of_bounds() -> None:
    def told(**terms: object) -> bytes:
        fields = {"version": 1, "source": "checkpoint", "location": "x", "sha256": "0" * 64, "published_at": 0.0}
        return bytes(msgpack.packb({"v": 1, "kind": "version", **fields, "activate": terms}))

    assert decode(told(when="by_hand", because="I say so"), PolicyVersion).activate == Activate(when="by_hand")
    with pytest.raises(WireError, match="share: Input should be less than or equal to 1"):
        decode(told(when="when_prepared", share=2.0), PolicyVersion)


def test_terms_keep_what_an_announcement_says_itself() -> None:
    weights = PolicyVersion(
        version=1, source="checkpoint", location="x", sha256="0" * 64, published_at=0.0, transport="store"
    )
    assert ServingTerms(probe=probe()).applied(weights).requires == ("probe", "store")
