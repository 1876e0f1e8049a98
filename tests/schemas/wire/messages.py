"""A message of each kind of the first release, and parts of others."""

from __future__ import annotations

import numpy as np

from rollstream.schemas import (
    AdapterManifest,
    Batch,
    DeadLetter,
    ErrorCode,
    GenerationConfig,
    GoldenBatch,
    GroupError,
    GroupResult,
    Job,
    Message,
    Origin,
    Part,
    PolicyVersion,
    Probe,
    ScoreJob,
    Sealed,
    Tensor,
    Tolerance,
    WeightsManifest,
)
from rollstream.schemas.weights.tensor_digest import TensorEntry, tensors_digest
from rollstream.schemas.weights.tensor_table import pack_table
from rollstream.schemas.wire.weights import Chunk, pack_chunks

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


PART = Part(
    batch_id="b-1",
    group=1,
    sample=0,
    of="5a" * 32,
    token_ids=int32(9, 4),
    version_spans=((7, 2),),
    worker="gpu-1",
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
