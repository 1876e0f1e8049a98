"""What a delta costs beside all weights, after real steps of AdamW: bytes, and seconds of each part of the work.

A small transformer with float32 master weights is trained as a policy is (random advantages, gradients of norm 1), and
published in bfloat16 after each step. A step at a low learning rate leaves most weights of bfloat16 as they are. No
engine and no network takes part: `benchmarks.engine.swap` measures what a worker does with a version.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from benchmarks.support import report
from benchmarks.support.report import Report, Scenario
from rollstream.producer.weights.encoding import Described, described, encoded, stored_chunk
from rollstream.producer.weights.model_tensors import copied
from rollstream.producer.weights.tensor_values import TensorValues
from rollstream.schemas.weights.compression import Compression, compression_problem, decompressed
from rollstream.schemas.weights.delta import read_records
from rollstream.schemas.weights.tensor_digest import bytes_digest
from rollstream.schemas.wire.weights import Chunk

_CHUNK_BYTES = 4 * 2**20
_ROWS, _LENGTH = 4, 64

Tensors = Mapping[str, TensorValues]
T = TypeVar("T")


@dataclass
class Found:
    """The runs of one learning rate."""

    megabytes: dict[str, list[float]] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    changed: list[float] = field(default_factory=list)
    """Shares of elements that a step changed."""

    def timed(self, arm: str, work: Callable[[], T]) -> T:
        """Do the work, and note how long it took."""
        began = time.perf_counter()
        done = work()
        self.seconds.setdefault(arm, []).append(time.perf_counter() - began)
        return done

    def sized(self, arm: str, chunks: list[bytes]) -> None:
        """Note how many bytes travel."""
        self.megabytes.setdefault(arm, []).append(sum(map(len, chunks)) / 1e6)


def trained(hidden: int, layers: int, vocabulary: int, rate: float, warm_up: int) -> Iterator[Any]:
    """The model after each step, for ever, without the first: in these AdamW moves every weight by `rate`."""
    import torch  # noqa: PLC0415 - `--help` needs none
    from transformers import Qwen2Config, Qwen2ForCausalLM  # noqa: PLC0415

    torch.manual_seed(0)
    config = Qwen2Config(
        hidden_size=hidden, intermediate_size=4 * hidden, num_hidden_layers=layers, vocab_size=vocabulary,
        num_attention_heads=hidden // 64, num_key_value_heads=hidden // 128, tie_word_embeddings=True,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    step = 0
    while True:
        ids = torch.randint(vocabulary, (_ROWS, _LENGTH))
        logprobs = model(ids).logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
        (-(torch.randn(_ROWS, 1) * logprobs).mean()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        step += 1
        if step >= warm_up:
            yield model


def one_step(found: Found, before: Tensors, tensors: Tensors, compressions: list[Compression]) -> None:
    """Measure one version on the version before."""
    whole = found.timed("hash all weights", lambda: described(tensors, None, {}))
    digests = {one.name: one.sha256 for one in described(before, None, {}).entries}
    what = found.timed("compare, hash what changed", lambda: described(tensors, before, digests))
    found.changed.append(sum(what.changed.values()) / what.elements)
    for compression in compressions:
        suffix = "" if compression == "none" else f", {compression}"
        _sent(found, f"all weights{suffix}", whole, tensors, None, compression)
        chunks = _sent(found, f"delta{suffix}", what, tensors, before, compression)
        _applied(found, f"apply delta{suffix}", what, before, chunks, compression)


def _sent(
    found: Found, arm: str, what: Described, tensors: Tensors, base: Tensors | None, compression: Compression
) -> list[tuple[int, bytes]]:
    def encode() -> list[tuple[Chunk, bytes]]:
        return [stored_chunk(plain, compression) for plain in encoded(what, tensors, base, _CHUNK_BYTES)]

    made = found.timed(f"encode {arm}", encode)
    found.sized(arm, [data for _, data in made])
    return [(chunk.plain_bytes, data) for chunk, data in made]


def _applied(
    found: Found,
    arm: str,
    what: Described,
    before: Tensors,
    chunks: list[tuple[int, bytes]],
    compression: Compression,
) -> None:
    target = {name: np.array(one.values) for name, one in before.items()}

    def apply() -> None:
        for size, data in chunks:
            for record in read_records(decompressed(data, compression, size), what.entries):
                record.apply(target[what.entries[record.tensor].name])

    found.timed(arm, apply)
    if any(bytes_digest(target[one.name].data) != one.sha256 for one in what.entries):
        raise SystemExit("the delta did not give the trainer's weights")


def measure(arguments: argparse.Namespace) -> Report:
    """Train and publish at each learning rate."""
    names: tuple[Compression, ...] = ("none", "zstd")
    compressions = [one for one in names if compression_problem(one) is None]
    scenarios: list[Scenario] = []
    size = 0
    for rate in arguments.rate:
        found, before = Found(), dict[str, TensorValues]()
        models = trained(arguments.hidden, arguments.layers, arguments.vocabulary, rate, arguments.warm_up)
        for step, model in zip(range(arguments.steps + 1), models, strict=False):
            tensors = found.timed("copy and cast", lambda model=model: copied(1, model.state_dict(), "bfloat16"))  # type: ignore[misc] # mypy cannot infer a lambda with a default
            size = sum(one.values.nbytes for one in tensors.values())
            if before:
                one_step(found, before, tensors, compressions)
                report.say(f"lr {rate:g}, step {step}: {100 * found.changed[-1]:.2f} % changed")
            before = tensors
        scenarios += _scenarios(rate, found)
    return Report("weights", scenarios, {"megabytes": size / 1e6, "chunk_bytes": _CHUNK_BYTES, **vars(arguments)})


def _scenarios(rate: float, found: Found) -> list[Scenario]:
    about = f"one step of AdamW at a learning rate of {rate:g}, weights in bfloat16"
    changed = {"changed_share": [round(one, 6) for one in found.changed]}
    return [
        Scenario(f"bytes, lr {rate:g}", about, "MB", "all weights", found.megabytes, changed),
        Scenario(f"seconds, lr {rate:g}", about, "s", "hash all weights", found.seconds, changed),
    ]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.queue.weights", description=__doc__)
    parser.add_argument("--rate", type=float, nargs="+", default=[1e-6, 1e-5], help="learning rates (%(default)s)")
    parser.add_argument("--hidden", type=int, default=384, help="width of the model, a multiple of 128 (%(default)s)")
    parser.add_argument("--layers", type=int, default=6, help="its layers (%(default)s)")
    parser.add_argument("--vocabulary", type=int, default=8_192, help="its ids (%(default)s)")
    parser.add_argument("--warm-up", type=int, default=10, help="steps before the first version (%(default)s)")
    parser.add_argument("--steps", type=int, default=3, help="versions after the first (%(default)s)")
    parser.add_argument("--out", type=Path, help="write the report here, as JSON")
    arguments = parser.parse_args()
    out = arguments.out
    del arguments.out
    report.finish(measure(arguments), out)


if __name__ == "__main__":
    main()
