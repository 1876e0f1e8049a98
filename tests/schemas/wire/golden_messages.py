"""Messages of each kind, by the names of the files that have their bytes as they were written once."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rollstream.schemas import (
    Activate,
    Activation,
    GenerationConfig,
    Golden,
    GroupError,
    Guided,
    Message,
    Part,
    Repetition,
    RoutedExperts,
    SessionTurn,
    Tensor,
    Tolerance,
    Turn,
    WeightsManifest,
)
from rollstream.schemas.weights.tensor_digest import tensors_digest
from rollstream.schemas.wire.images import ImageRef, ImageSpan
from rollstream.schemas.wire.rounds import Place, Round, RoundPlan, Sent
from rollstream.schemas.wire.trainers.runs import GateState, Intent
from tests.schemas.wire.golden_scores import SCORES
from tests.schemas.wire.messages import GOLDEN_BATCH, MESSAGES, PART, PROBE, SCORE_JOB, TENSORS, WEIGHTS, int32, name

CAT = ImageRef(sha256="5a" * 32, nbytes=700, format="png", width=32, height=24)
DOG = ImageRef(sha256="0b" * 32, nbytes=16_777_216, format="webp", width=8192, height=8192)

GOLDEN = Path(__file__).parent / "golden"


ROUTING = RoutedExperts(dtype="uint8", layers=4, k=2, experts=8, dense=(0,), rows=(4, 5), sha256=("0a" * 32, "5b" * 32))


IN_FULL: dict[str, Message] = {name(message): message for message in MESSAGES}
"""Written when every field still travelled, at its default or not."""


TODAY: dict[str, Message] = (
    {f"{name(message)}.defaults-left-out": message for message in MESSAGES}
    | SCORES
    | {
        "GroupResult.v1.every-field": MESSAGES[2].model_copy(
            update={
                "forced_mask": Tensor.of(np.array([[0, 1, 0], [0, 0, 0]], bool)),
                "top_token_ids": Tensor.of(np.array([[[9, 1], [2, 3], [0, 0]], [[4, 5]] * 3], np.int32)),
                "top_logprobs": Tensor.of(np.array([[[-0.5, -3], [-1, -1], [0, 0]], [[-2, -2]] * 3], np.float32)),
                "support_ids": int32(9, 1, 4, 4, 5, 4),
                "support_lengths": Tensor.of(np.array([[2, 0, 0], [1, 2, 1]], np.int32)),
                "texts": ("a", "bcd"),
                "scores": Tensor.of(np.array([-1.5, -6], np.float32)),
                "spans_exact": False,
                "delivery": 2,
                "sample_index": int32(5, 1),
                "cut_lengths": int32(3, 0, 2),
                "resumed_at": int32(0, 3),
                "trace": f"00-{'4b' * 16}-{'0a' * 8}-01",
            }
        ),
        "GroupResult.v1.cut-and-repetition": MESSAGES[2].model_copy(update={"finish_reasons": ("cut", "repetition")}),
        "GroupResult.v1.routing": MESSAGES[2].model_copy(update={"routing": ROUTING}),
        "Part.v1.routing": PART.model_copy(
            update={
                "finish_reason": "length",
                "routing": RoutedExperts(dtype="uint16", layers=2, k=2, experts=300, rows=(4,), sha256=("3c" * 32,)),
            }
        ),
        "Job.v1.routed-experts": MESSAGES[1].model_copy(
            update={
                "config": GenerationConfig(max_new_tokens=8, routed_experts=True),
                "requires": ("routed_experts",),
            }
        ),
        "Job.v1.requires": MESSAGES[1].model_copy(update={"requires": ("images", "guided")}),
        "Job.v1.share": MESSAGES[1].model_copy(
            update={"requires": ("split",), "expected_tokens": int32(3, 40), "first_sample": 1, "samples": 1}
        ),
        "Batch.v1.shares": MESSAGES[0].model_copy(update={"num_jobs": 2, "samples_per_job": 1}),
        "PolicyVersion.v1.requires": MESSAGES[6].model_copy(update={"requires": ("nccl",)}),
        "PolicyVersion.v1.every-field": MESSAGES[6].model_copy(
            update={
                "source": "checkpoint",
                "location": "7-0a0b",
                "requires": ("activate", "probe", "store"),
                "transport": "store",
                "base": 6,
                "probe": PROBE,
                "activate": Activate(when="when_prepared", share=0.5, timeout_s=90.0),
            }
        ),
        "Activation.v1": Activation(version=7, by="gpu-1", at=1000.5),
        "Activation.v1.content": Activation(version=7, by="gpu-1", at=1000.5, sha256="0" * 64),
        "Probe.v1": PROBE,
        "Intent.v1": Intent(
            batch_id="exp-42.0a0b0c.7",
            number=7,
            digest="0d" * 32,
            samples=128,
            intended_at=1000.5,
            admitted=3,
            note=b"\x81\xa4step\x07",
        ),
        "SessionTurn.v1": SessionTurn(
            request_id="chatcmpl-7",
            batch_id="game-7.0a0b0c0d0e0f0a0b0c0d",
            digest="0d" * 32,
            at=1000.5,
            samples=4,
            parent=Turn(batch_id="game-7.000102030405060708ff", group=0, sample=3),
            note=b"\x81\xa4step\x07",
        ),
        "SessionTurn.v1.images": SessionTurn(
            request_id="1", batch_id="b", digest="0d" * 32, at=1000.5, images=(CAT, DOG)
        ),
        "SessionTurn.v1.first": SessionTurn(request_id="1", batch_id="b", digest="0d" * 32, at=1000.5),
        "GateState.v1.cut": GateState(version=7, first_version=2, consumed=640, cut=64),
        "GateState.v1": GateState(
            version=7, first_version=2, consumed=640, failed=8, returned=16, late=1, staleness=((0, 600), (3, 40))
        ),
        "WeightsManifest.v1": WEIGHTS,
        "WeightsManifest.v1.anchor": WeightsManifest(
            version=7, sha256=WEIGHTS.sha256, table=WEIGHTS.table, packed_chunks=WEIGHTS.packed_chunks
        ),
        "WeightsManifest.v1.adapter": WeightsManifest(
            version=7,
            sha256=tensors_digest(TENSORS, b'{"peft_type": "LORA"}'),
            table=WEIGHTS.table,
            packed_chunks=WEIGHTS.packed_chunks,
            config=b'{"peft_type": "LORA"}',
        ),
        "Golden.v1": Golden(
            batches=(GOLDEN_BATCH,),
            model="math-7b",
            vocab_size=32,
            dtype="bfloat16",
            engine="vllm",
            runs_on="vllm 0.32.0 on NVIDIA H200",
            policy_version=7,
            policy_sha256="0" * 64,
            recorded_at=1000.5,
            tolerance=Tolerance(mean=0.01, largest=0.25),
        ),
        "Round.v1": Round(
            epoch="0123456789abcdef",
            version=7,
            sha256="5a" * 32,
            backend="nccl",
            sent=Sent(
                names=("model.embed_tokens.weight", "model.norm.weight"),
                dtypes=("bfloat16", "float32"),
                dimensions=int32(2, 1),
                sizes=Tensor.of(np.array([32, 8, 8], np.int64)),
            ),
            join_s=10.0,
            timeout_s=120.0,
        ),
        "RoundPlan.v1": RoundPlan(
            epoch="0123456789abcdef",
            places=(Place(consumer="gpu-1", first_rank=1, ranks=2), Place(consumer="gpu-2", first_rank=3, ranks=1)),
            meeting=b"10.0.0.1:4321",
        ),
        "Job.v1.continue-of": MESSAGES[1].model_copy(
            update={
                "requires": ("continue_of",),
                "continue_of": (None, Turn(batch_id="b-0", group=3, sample=1)),
                "session": "agent-7",
                "session_wait_s": 0.5,
            }
        ),
        "GroupResult.v1.continued": MESSAGES[2].model_copy(
            update={
                "prompt": int32(6, 7, 8, 9, 2, 5, 4, 3),
                "continued": Turn(batch_id="b-0", group=3, sample=1),
                "earlier_completions": Tensor.of(np.array([[1, 2], [5, 1]], np.int32)),
                "cached_tokens": 4,
            }
        ),
        "Job.v1.keep-partials": MESSAGES[1].model_copy(update={"keep_partials": 2.5}),
        "Part.v1": PART,
        "Part.v1.every-field": Part(
            batch_id="b-1",
            group=1,
            sample=3,
            of="5a" * 32,
            token_ids=int32(9, 4, 2),
            logprobs=Tensor.of(np.array([-0.5, -1, -2], np.float32)),
            logprobs_flavour="processed",
            version_spans=((6, 1), (7, 2)),
            spans_exact=False,
            adapter="math@3",
            finish_reason="stop",
            stop_reason=2,
            text="abc",
            worker="gpu-1",
            delivery=2,
            resumed_at=1,
            top_token_ids=Tensor.of(np.array([[9, 1], [4, 3], [2, 5]], np.int32)),
            top_logprobs=Tensor.of(np.array([[-0.5, -3], [-1, -1], [-2, -2]], np.float32)),
            label_logprobs=Tensor.of(np.array([[-0.5], [-np.inf], [-1]], np.float32)),
            support_ids=int32(9, 1, 4, 2),
            support_lengths=int32(2, 1, 1),
            forced=Tensor.of(np.array([0, 1, 0], bool)),
        ),
        "Part.v1.expanded": PART.model_copy(update={"expanded": "4d" * 32}),
        "Part.v1.processor": PART.model_copy(update={"expanded": "4d" * 32, "processor": "9e" * 32}),
        "Part.v1.weights": PART.model_copy(update={"weights": ((7, "3c" * 32),)}),
        "Job.v1.asked-of-engine": MESSAGES[1].model_copy(
            update={
                "config": GenerationConfig(
                    max_new_tokens=8,
                    top_k=4,
                    top_logprobs=2,
                    sampling_support=True,
                    label_token_ids=(3, 1),
                    guided=Guided(choice=("yes", "no")),
                    thinking_budget=6,
                    stop_on_repetition=Repetition(max_pattern_size=3, min_count=4, min_pattern_size=2),
                ),
                "requires": ("top_logprobs", "guided"),
            }
        ),
        "GroupResult.v1.labels": MESSAGES[2].model_copy(
            update={"label_logprobs": Tensor.of(np.array([[[-0.5, -3], [-1, -np.inf], [0, 0]], [[-2, -2]] * 3], "f4"))}
        ),
        "Batch.v1.first-groups": MESSAGES[0].model_copy(
            update={"config": GenerationConfig(max_new_tokens=8, num_return_sequences=4, first_k=3), "first_groups": 1}
        ),
        "Job.v1.first-groups": MESSAGES[1].model_copy(
            update={
                "config": GenerationConfig(max_new_tokens=8, num_return_sequences=4, first_k=3),
                "requires": ("first_k", "first_groups"),
                "first_groups": 1,
            }
        ),
        "GroupError.v1.not-needed": GroupError(
            batch_id="b-1", group=1, code="not_needed", field="group", message="cut", worker="producer"
        ),
        "Job.v1.images": MESSAGES[1].model_copy(update={"requires": ("images",), "images": ((CAT, DOG), ())}),
        "GroupResult.v1.images": MESSAGES[2].model_copy(
            update={
                "prompt": int32(5, 9, 9, 9, 7, 9),
                "images": (CAT, DOG),
                "image_spans": (ImageSpan(offset=1, length=3, was=(9,)), ImageSpan(offset=5, length=1, was=(8, 9))),
            }
        ),
        "GroupResult.v1.processor": MESSAGES[2].model_copy(
            update={
                "prompt": int32(5, 9, 9, 9, 7),
                "images": (CAT,),
                "image_spans": (ImageSpan(offset=1, length=3, was=(9,), processor="9e" * 32),),
            }
        ),
        "ScoreJob.v1.images": SCORE_JOB.model_copy(
            update={
                "requires": ("images",),
                "images": ((CAT,), (), (DOG,)),
                "image_spans": ((ImageSpan(offset=0, length=1, was=(9,)),), (), ()),
            }
        ),
        "Batch.v1.traced": MESSAGES[0].model_copy(update={"traceparent": f"00-{'4b' * 16}-{'0a' * 8}-01"}),
    }
)
"""Further messages, by the names of their golden files. A file that was written stays: add another."""
