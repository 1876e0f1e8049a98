"""A message of each kind, and of each its bytes as they were written once."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rollstream.schemas import (
    Activate,
    Activation,
    AdapterManifest,
    Batch,
    DeadLetter,
    ErrorCode,
    GenerationConfig,
    Golden,
    GoldenBatch,
    GroupError,
    GroupResult,
    GroupScores,
    Guided,
    Job,
    Message,
    Origin,
    PolicyVersion,
    Probe,
    Repetition,
    ScoreDescription,
    ScoreJob,
    Sealed,
    Tensor,
    Tolerance,
    WeightsManifest,
)
from rollstream.schemas.weights.tensor_digest import TensorEntry, tensors_digest
from rollstream.schemas.weights.tensor_table import pack_table
from rollstream.schemas.wire.rounds import Place, Round, RoundPlan, Sent
from rollstream.schemas.wire.weights import Chunk, pack_chunks

GOLDEN = Path(__file__).parent / "golden"
CONFIG = GenerationConfig(
    max_new_tokens=4, temperature=0.5, num_return_sequences=2, eos_token_id=(2, 7), logit_bias={3: -1.5}, seed=11
)


def int32(*values: int) -> Tensor:
    return Tensor.of(np.array(values, np.int32))


PROBE = Probe(
    token_ids=int32(5, 6, 7, 8, 9),
    row_lengths=int32(2, 3),
    logprobs=Tensor.of(np.array([-0.5, -1.5, -2], np.float32)),
    vocab_size=32,
    tolerance=Tolerance(mean=0.01, largest=0.25),
)

TENSORS = [TensorEntry("a.weight", "BF16", (2, 3), "0a" * 32), TensorEntry("b", "F32", (), "0b" * 32)]
WEIGHTS = WeightsManifest(
    version=7,
    sha256=tensors_digest(TENSORS),
    table=pack_table(TENSORS),
    packed_chunks=pack_chunks([Chunk("0c" * 32, 40, 64)]),
    compression="zstd",
    base=6,
    base_sha256="0d" * 32,
    chain=3,
    changed=5,
)
GOLDEN_BATCH = GoldenBatch(
    config=GenerationConfig(max_new_tokens=3, num_return_sequences=2, seed=11),
    prompt_ids=int32(5, 6, 7),
    prompt_lengths=int32(1, 2),
    token_ids=int32(9, 2, 4, 4, 4, 8, 7, 31),
    lengths=int32(2, 3, 1, 2),
    logprobs=Tensor.of(np.array([-0.5, -1, -2, -2, -2, -0.25, -3, 0], np.float32)),
)

SCORE_JOB = ScoreJob(
    batch_id="s-1",
    job=0,
    first_group=0,
    num_groups=3,
    token_ids=int32(5, 6, 7, 8, 9),
    row_lengths=int32(2, 0, 3),
    firsts=int32(1, 0, 2),
    submitted_at=1000.5,
)

MESSAGES: list[Message] = [
    Batch(
        batch_id="b-1",
        num_groups=2,
        num_jobs=1,
        prompt_width=3,
        config=CONFIG,
        adapter="math@3",
        submitted_at=1000.5,
        lineage=(Origin(batch_id="a", entry_id="1-0"),),
    ),
    Job(
        batch_id="b-1",
        job=0,
        first_group=0,
        num_groups=2,
        prompt_ids=int32(5, 6, 7, 8),
        prompt_lengths=int32(1, 3),
        config=CONFIG,
        adapter="math@3",
        submitted_at=1000.5,
        queue_deadline_s=60.0,
        min_policy_version=16,
        max_staleness=2,
        run_deadline_s=9.5,
        seed_offset=4,
        lineage=(Origin(batch_id="a", entry_id="1-0"),),
    ),
    GroupResult(
        batch_id="b-1",
        group=1,
        prompt=int32(6, 7, 8),
        token_ids=Tensor.of(np.array([[9, 2, 0], [4, 4, 4]], np.int32)),
        lengths=int32(2, 3),
        response_mask=Tensor.of(np.array([[1, 1, 0], [1, 1, 1]], bool)),
        logprobs=Tensor.of(np.array([[-0.5, -1.0, 0.0], [-2.0, -2.0, -2.0]], np.float32)),
        logprobs_flavour="processed",
        finish_reasons=("stop", "length"),
        stop_reasons=(2, None),
        version_spans=(((0, 2),), ((0, 1), (1, 2))),
        adapter="math@3",
        worker="gpu-1",
        queued_s=0.25,
        generate_s=1.5,
    ),
    GroupError(
        batch_id="b-1",
        group=0,
        code=ErrorCode.EMPTY_PROMPT.value,
        field="prompt",
        message="no token",
        worker="gpu-1",
        prompt=int32(),
    ),
    Sealed(batch_id="b-1", num_groups=2),
    DeadLetter(
        policy="math-7b",
        entry_id="1-0",
        fields=((b"batch", b"b-1"),),
        error="WireError: truncated",
        deliveries=3,
        worker="gpu-1",
        delivered_at=1000.5,
        buried_at=1001.5,
    ),
    PolicyVersion(version=7, source="adapter", location="math@7", sha256="0" * 64, published_at=1000.5),
    AdapterManifest(name="math@7", sha256="0" * 64, config=b"{}", num_bytes=9, chunk_bytes=4, published_at=1000.5),
]


def name(message: Message) -> str:
    return f"{type(message).__name__}.v{message.v}"


IN_FULL: dict[str, Message] = {name(message): message for message in MESSAGES}
"""Written when every field still travelled, at its default or not."""


TODAY: dict[str, Message] = {f"{name(message)}.defaults-left-out": message for message in MESSAGES} | {
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
    "Job.v1.requires": MESSAGES[1].model_copy(update={"requires": ("images", "guided")}),
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
    "ScoreJob.v1": SCORE_JOB,
    "ScoreJob.v1.every-field": SCORE_JOB.model_copy(
        update={
            "top_logprobs": 2,
            "adapter": "math@3",
            "queue_deadline_s": 60.0,
            "run_deadline_s": 9.5,
            "min_policy_version": 16,
            "max_staleness": 2,
            "lineage": (Origin(batch_id="a", entry_id="1-0"),),
            "requires": ("images",),
        }
    ),
    "ScoreDescription.v1": ScoreDescription(
        batch_id="s-1", num_groups=3, num_jobs=1, width=4, offsets=int32(0, 0, 1), submitted_at=1000.5
    ),
    "ScoreDescription.v1.every-field": ScoreDescription(
        batch_id="s-1",
        num_groups=3,
        num_jobs=1,
        width=4,
        offsets=int32(0, 0, 1),
        submitted_at=1000.5,
        top_logprobs=2,
        adapter="math@3",
        lineage=(Origin(batch_id="a", entry_id="1-0"),),
        traceparent=f"00-{'4b' * 16}-{'0a' * 8}-01",
    ),
    "ScoreDescription.v1.with-columns": ScoreDescription(
        batch_id="s-1",
        num_groups=3,
        num_jobs=1,
        width=4,
        offsets=int32(0, 0, 1),
        columns=int32(4, 0, 3),
        tokens_per_group=5,
        submitted_at=1000.5,
    ),
    "GroupScores.v1": GroupScores(
        batch_id="s-1",
        group=2,
        logprobs=Tensor.of(np.array([-0.5, -1], np.float32)),
        policy_version=7,
        worker="gpu-1",
        queued_s=0.25,
        score_s=1.5,
    ),
    "GroupScores.v1.every-field": GroupScores(
        batch_id="s-1",
        group=2,
        logprobs=Tensor.of(np.array([-0.5, -1], np.float32)),
        top_token_ids=Tensor.of(np.array([[8, 1], [3, 9]], np.int32)),
        top_logprobs=Tensor.of(np.array([[-0.5, -3], [-0.75, -1]], np.float32)),
        policy_version=7,
        adapter="math@3",
        worker="gpu-1",
        delivery=2,
        queued_s=0.25,
        score_s=1.5,
        trace=f"00-{'4b' * 16}-{'0a' * 8}-01",
    ),
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
    "Batch.v1.traced": MESSAGES[0].model_copy(update={"traceparent": f"00-{'4b' * 16}-{'0a' * 8}-01"}),
}
"""Further messages, by the names of their golden files. A file that was written stays: add another."""
