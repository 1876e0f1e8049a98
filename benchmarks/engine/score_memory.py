"""How much GPU memory scores take beside vLLM's own budget: rows of several lengths, at once or in turn, K other ids.

The memory in use on the whole GPU is read every 5 ms while rows are scored; nothing else may run on it. What is printed
is the growth since the engine started. PyTorch keeps what it once had, so read the numbers as a running maximum.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import itertools
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.support import report
from benchmarks.support.models import NAMES, Model, make
from benchmarks.support.workload import Prompts
from rollstream.worker.config import WorkerSettings
from rollstream.worker.requests import ScoreRequest

LOOK_S = 0.005
_numbers = itertools.count()


class Peak:
    """The most memory that was in use, in bytes, while it was watched."""

    def __init__(self, gpu: int) -> None:
        nvml: Any = importlib.import_module("pynvml")  # not there without a GPU
        nvml.nvmlInit()
        device = nvml.nvmlDeviceGetHandleByIndex(gpu)
        self._used: Callable[[], int] = lambda: int(nvml.nvmlDeviceGetMemoryInfo(device).used)
        self.before = self._used()

    @contextmanager
    def watched(self) -> Iterator[list[int]]:
        """The one number is the peak, once the block has ended."""
        found, over = [0], threading.Event()

        def look() -> None:
            while not over.wait(LOOK_S):
                found[0] = max(found[0], self._used())

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield found
        finally:
            over.set()
            thread.join()


async def _scored(engine: Any, rows: list[list[int]], k: int) -> float:
    began = time.perf_counter()
    requests = [
        ScoreRequest(request_id=f"s/{next(_numbers)}", token_ids=row, first=1, top_logprobs=k, adapter=None)
        for row in rows
    ]
    await asyncio.gather(*(engine.score(request) for request in requests))
    return time.perf_counter() - began


async def measure(flags: argparse.Namespace, model: Model) -> list[dict[str, Any]]:
    """One engine, and each combination of length, rows at once and K in turn."""
    from rollstream.worker.engines.vllm.engine import VllmEngine  # noqa: PLC0415 - imports vLLM

    engine = VllmEngine(
        WorkerSettings(
            policy="bench",
            model=model.folder,
            dtype="bfloat16",
            max_num_seqs=64,
            max_model_len=max(flags.lengths) + 1,
            gpu_memory_utilization=flags.memory,
            engine_args={"load_format": "dummy", "hf_overrides": {"max_position_embeddings": 2 * max(flags.lengths)}},
        )
    )
    await engine.start()
    peak, found = Peak(flags.gpu), []
    try:
        for length in flags.lengths:
            rows = Prompts(model, (length, length)).draw(max(flags.at_once) // length)
            for tokens, k in itertools.product(flags.at_once, flags.k):
                chosen = rows[: max(1, tokens // length)]
                with peak.watched() as memory:
                    seconds = await _scored(engine, chosen, k)
                grew, tok_s = (memory[0] - peak.before) / 2**20, len(chosen) * length / seconds
                one = {
                    "row": length, "rows_at_once": len(chosen), "k": k, "grew_mib": round(grew), "tok_s": round(tok_s),
                }  # fmt: skip
                report.say(json.dumps(one))
                found.append(one)
    finally:
        await engine.close()
    return found


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine.score_memory", description=__doc__)
    parser.add_argument("--model", choices=NAMES, default="1.5b", help="default: %(default)s")
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 16384], help="tokens of a row")
    parser.add_argument("--at-once", type=int, nargs="+", default=[2048, 16384, 131072], help="tokens scored at once")
    parser.add_argument("--k", type=int, nargs="+", default=[0, 20, 64], help="other ids of each token")
    parser.add_argument("--memory", type=float, default=0.5, help="share of the GPU for vLLM (default: %(default)s)")
    parser.add_argument("--gpu", type=int, default=0, help="whose memory is read, by NVML's number (%(default)s)")
    parser.add_argument("--out", type=Path, metavar="JSON", help="where the report goes")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rollstream-bench-") as folder:
        found = uvloop.run(measure(flags, make(flags.model, Path(folder))))
    text = json.dumps(found, indent=1)
    sys.stdout.write(text + "\n")
    if flags.out:
        flags.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
