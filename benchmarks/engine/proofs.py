"""Whether a probe tells right weights from wrong ones, and what the proof costs, over families of models.

For each family the real engine swaps again and again to a checkpoint that has moved a little, with the probe that
`make_probe` makes of the trainer's model. A refusal is a false alarm. Then it swaps to checkpoints that are not those
of the probe: the step before, one layer left at its old values, one head of attention turned round. Each that passes is
missed: it differs by less than the dtype of the engine can tell.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import itertools
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.engine.families import FAMILIES, make, save, step
from benchmarks.support import report
from benchmarks.support.report import Report, Scenario
from rollstream import Probe, make_probe
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engine import Score
from rollstream.worker.errors import CheckpointRefusedError, ProofFailedError, SettingsError, SwapFailedError
from rollstream.worker.versions.proof import Proof, proof_of
from rollstream.worker.weights.checkpoint import read_content

_STEP = 0.002
"""How far a step moves each weight: 2 % of its spread."""
_TOKENS = 300


@dataclass
class Found:
    """What the swaps of one family showed."""

    right: int = 0
    false_alarms: list[str] = field(default_factory=list)
    caught: dict[str, str] = field(default_factory=dict)
    """Wrong weights, and how far off they were."""
    missed: dict[str, str] = field(default_factory=dict)
    refused: str = ""
    """Why the engine does not serve the family at all, or swaps nothing."""
    means: list[float] = field(default_factory=list)
    largest: list[float] = field(default_factory=list)
    proof_s: list[float] = field(default_factory=list)


class Prover:
    """Swaps an engine to checkpoints and proves each by a probe."""

    def __init__(self, engine: Any, folder: Path, dtype: str) -> None:
        self._engine = engine
        self._folder = folder
        self._dtype = dtype
        self._versions = itertools.count(1)
        self.proof_s = 0.0

    async def swap(self, model: Any, probe: Probe) -> Proof:
        """Raises `ProofFailedError` for weights that are not those of the probe."""
        version = next(self._versions)
        folder = await asyncio.to_thread(save, model, self._folder / f"v{version}", self._dtype)
        content = await asyncio.to_thread(read_content, folder)
        proofs: list[Proof] = []

        async def prove(score: Score) -> None:
            began = time.perf_counter()
            proofs.append(await proof_of(probe, version, self._engine.info, score))
            self.proof_s = time.perf_counter() - began

        await self._engine.load_checkpoint(version, folder, "keep", content, prove)
        return proofs[0]


def _layer_left_old(model: Any, before: Any) -> None:
    layer = "model.layers.1." if hasattr(model, "model") else "transformer.h.1."
    old = {name: value for name, value in before.state_dict().items() if name.startswith(layer)}
    model.load_state_dict(old, strict=False)


def _head_turned(model: Any, _before: Any) -> None:
    """Swap the halves of the first attention's output, as wrong rotary tables or a wrong layout of heads would."""
    name = next(name for name in model.state_dict() if name.endswith(("o_proj.weight", "attn.c_proj.weight")))
    weight = model.state_dict()[name]
    weight.copy_(weight.roll(weight.shape[1] // 2, 1))


def _bit_flipped(model: Any, _before: Any) -> None:
    """Flip the highest bit of the exponent of one weight in every row of a matrix that each token meets."""
    name = next(name for name in model.state_dict() if name.endswith(("o_proj.weight", "attn.c_proj.weight")))
    model.state_dict()[name][0, 0] *= 2.0**40


def _step_before(model: Any, before: Any) -> None:
    model.load_state_dict(before.state_dict())


WRONG: dict[str, Callable[[Any, Any], None]] = {
    "the step before": _step_before,
    "a layer left old": _layer_left_old,
    "heads turned": _head_turned,
    "a bit flipped": _bit_flipped,
}


async def family(name: str, dtype: str, swaps: int, folder: Path, show: Callable[[str], None]) -> Found:
    """Swap to `swaps` right versions of a family, and to each kind of wrong one."""
    from rollstream.worker.engines.vllm.engine import VllmEngine  # noqa: PLC0415 - imports vLLM

    found, model = Found(), make(name, 0)
    boot = await asyncio.to_thread(save, model, folder / "boot", dtype)
    settings = WorkerSettings(
        policy="proofs", model=boot, dtype=dtype, kv_cache_bytes=2**26, max_num_seqs=16, max_model_len=400
    )
    engine = VllmEngine(settings)
    try:
        await engine.start()
        prover = Prover(engine, folder, dtype)
        for number in range(swaps):
            await _right(prover, model, number, found)
            show(f"{name}: swap {number + 1} of {swaps}, {len(found.false_alarms)} false alarms")
        for kind, spoil in WRONG.items():
            await _wrong(prover, model, kind, spoil, found)
    except (CheckpointRefusedError, SettingsError, SwapFailedError) as error:
        found.refused = str(error)
    finally:
        await engine.close()
    return found


async def _right(prover: Prover, model: Any, number: int, found: Found) -> None:
    step(model, number, _STEP)
    probe = await asyncio.to_thread(make_probe, model, _rows(number))
    found.right += 1
    try:
        proof = await prover.swap(model, probe)
    except ProofFailedError as error:
        found.false_alarms.append(str(error))
        return
    found.means.append(proof.mean)
    found.largest.append(proof.largest)
    found.proof_s.append(prover.proof_s)


async def _wrong(prover: Prover, model: Any, kind: str, spoil: Callable[[Any, Any], None], found: Found) -> None:
    before = copy.deepcopy(model)
    step(model, 1000, 10 * _STEP)
    probe = await asyncio.to_thread(make_probe, model, _rows(0))
    spoilt = copy.deepcopy(model)
    spoil(spoilt, before)
    try:
        found.missed[kind] = str(await prover.swap(spoilt, probe))
    except ProofFailedError as error:
        found.caught[kind] = f"mean {error.mean:.3g}, largest {error.largest:.3g} nats"


def _rows(seed: int) -> list[list[int]]:
    return [[(position * 37 + row * 101 + seed * 13) % 500 + 3 for position in range(_TOKENS // 3)] for row in range(3)]


async def measure(names: list[str], dtype: str, swaps: int) -> Report:
    """One engine after the other."""
    scenarios: list[Scenario] = []
    for name in names:
        with tempfile.TemporaryDirectory(prefix="rollstream-bench-") as folder:
            found = await family(name, dtype, swaps, Path(folder), report.say)
        about = f"{found.right} right swaps, {len(found.false_alarms)} false alarms, {found.refused or 'served'}"
        report.say(f"{name}, {dtype}: {about}; caught {found.caught}; missed {found.missed}; {found.false_alarms[:2]}")
        details = {name: value for name, value in asdict(found).items() if name != "proof_s"}
        scenarios.append(Scenario(f"{name}: seconds of a proof", about, "s", "", {"proof": found.proof_s}, details))
    return Report(f"proofs in {dtype}", scenarios)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine.proofs", description=__doc__)
    parser.add_argument("--family", action="append", choices=FAMILIES, help="only these; may be repeated")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--swaps", type=int, default=15, help="right swaps of each family (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="write the report here, as JSON")
    arguments = parser.parse_args()
    done = asyncio.run(measure(arguments.family or list(FAMILIES), arguments.dtype, arguments.swaps))
    report.finish(done, arguments.out)


if __name__ == "__main__":
    main()
