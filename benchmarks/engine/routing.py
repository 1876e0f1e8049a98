"""What the routing of a mixture costs: tokens a second of a worker with `--routed-experts` and one without, in turns.

`off`: without the flag. `on`: with it, and no job asks. `asked`: each job asks, and its routing goes to Redis. `read`:
the client reads all of it too. The details have the mean difference by pairs, in per cent, with its 95 % interval, and
the bytes of routing of a run.

Each turn is told as it ends, and written to `--out`; no turn begins for which `--limit-s` leaves no time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.engine.engine_metrics import differences
from benchmarks.engine.saturation import Engines, bench_redis, shown_engines
from benchmarks.support import report
from benchmarks.support.arms import WrongOutputError, interleaved
from benchmarks.support.bounds import Limit
from benchmarks.support.fleet import Fleet
from benchmarks.support.models import VOCABULARY, Model
from benchmarks.support.report import Report, Scenario
from benchmarks.support.turns import my_turn
from benchmarks.support.workload import Load, Prompts, Workload, config
from rollstream import AsyncClient, GroupResult

MOE: dict[str, Any] = {
    "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "vocab_size": VOCABULARY, "hidden_size": 1024,
    "intermediate_size": 3072, "moe_intermediate_size": 512, "num_hidden_layers": 24, "num_attention_heads": 16,
    "num_key_value_heads": 4, "head_dim": 64, "num_experts": 64, "num_experts_per_tok": 8, "decoder_sparse_step": 1,
    "mlp_only_layers": [], "norm_topk_prob": True, "max_position_embeddings": 32_768, "rms_norm_eps": 1e-6,
    "rope_theta": 1e6, "hidden_act": "silu", "tie_word_embeddings": False, "attention_bias": False,
    "dtype": "bfloat16", "bos_token_id": 151_643, "eos_token_id": 151_645,
}  # fmt: skip
"""2.7 B parameters, of which a token uses 0.6 B; vLLM fills them."""
_WARM = 64
"""Tokens of a completion of the run that is not counted."""


class Arm:
    """One way to sample the workload."""

    def __init__(self, name: str, client: AsyncClient, *, asks: bool, reads: bool) -> None:
        self.name = name
        self.nbytes = 0
        """Bytes of routing of the last run."""
        self._client = client
        self._asks = asks
        self._reads = reads

    async def run(self, workload: Workload) -> float:
        """See `Arm.run` of `benchmarks.support.arms`."""
        began = time.perf_counter()
        self.nbytes = 0
        tokens = await asyncio.gather(*(self._one(workload, batch) for batch in workload.batches))
        seconds = time.perf_counter() - began
        if sum(tokens) != workload.tokens:
            raise WrongOutputError(f"{self.name}: {sum(tokens)} of {workload.tokens} tokens")
        return seconds

    async def _one(self, workload: Workload, batch: Load) -> int:
        asked = batch.config.model_copy(update={"routed_experts": self._asks})
        handle = await self._client.submit(batch.prompts, None, asked, prompts_per_job=workload.prompts_per_job)
        tokens = 0
        async for group in handle.groups(timeout=300):
            if not isinstance(group, GroupResult):
                raise WrongOutputError(f"{self.name}: {group.code}: {group.message}")
            tokens += int(group.lengths.numpy().sum())
            if (group.routing is not None) != self._asks:
                raise WrongOutputError(f"{self.name}: routing is there although it was not asked for, or is missing")
            self.nbytes += 0 if group.routing is None else group.routing.nbytes
            if self._reads:
                await handle.routed_experts(group)
        return tokens


def mixture(name: str, root: Path) -> Model:
    """`moe`, made below `root`, or the model in the folder of this name."""
    if name != "moe":
        told = json.loads((Path(name) / "config.json").read_text())
        return Model("moe", Path(name), int(told["vocab_size"]), {"dtype": "bfloat16"}, 2048)
    folder = root / "moe"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(MOE, indent=1) + "\n")
    return Model("moe", folder, VOCABULARY, {"load_format": "dummy", "dtype": "bfloat16"}, 2048)


def sampled(model: Model, groups: int, tokens: int) -> Workload:
    """One batch."""
    about = f"one batch of {groups} prompts, n = 8, {tokens} tokens, log-probs"
    return Workload("routing", about, (Load(Prompts(model, (32, 256)).draw(groups), config(tokens)),), 2)


async def compare(
    engines: Engines, workload: Workload, repeats: int, redis_url: str, fleet: Fleet, limit: Limit, out: Path | None
) -> Report:
    """Run the workload in all ways, in turns; write all results to `out` after each turn."""
    workers = [fleet.start(policy, *engines.flags(), *flags) for policy, flags in _WORKERS.items()]
    for worker in workers:
        await asyncio.to_thread(worker.wait_until_serving)
    limit.say("both workers serve")
    await my_turn()
    async with AsyncExitStack() as closing:
        off, on = [await closing.enter_async_context(AsyncClient(redis_url, policy=policy)) for policy in _WORKERS]
        arms = [
            Arm("off", off, asks=False, reads=False),
            Arm("on", on, asks=False, reads=False),
            Arm("asked", on, asks=True, reads=False),
            Arm("read", on, asks=True, reads=True),
        ]
        speed = {arm.name: list[float]() for arm in arms}
        scenario = Scenario(workload.name, workload.about, "tok/s", "off", speed)
        done = Report("routing", [scenario], shown_engines(engines))
        await interleaved(arms, sampled(engines.model, 8, _WARM), 1)
        for _ in range(repeats):
            if not limit.fits("a turn"):
                break
            with limit.measuring("a turn"):
                for name, runs in (await interleaved(arms, workload, 1)).items():
                    speed[name] += runs
            details = {"tokens": workload.tokens, "routing_bytes": arms[-1].nbytes}
            scenario.details = {**details, **differences(speed)}
            limit.say(", ".join(f"{name}: {runs[-1]:,.0f} tok/s" for name, runs in speed.items()))
            if out is not None:
                report.write(out, [done])
    return done


_WORKERS = {"bench-off": (), "bench-on": ("--routed-experts",)}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine.routing", description=__doc__)
    parser.add_argument("--model", default="moe", help="moe (made on the spot), or the folder of a mixture of experts")
    parser.add_argument("--folder", type=Path, help="where the model is made; default: a temporary folder")
    parser.add_argument("--max-num-seqs", type=int, default=256, help="sequences of an engine (default: %(default)s)")
    parser.add_argument("--memory", type=float, default=0.25, help="share of the GPU an engine takes (%(default)s)")
    parser.add_argument("--kv-cache-bytes", type=int, help="KV cache of an engine, instead of --memory")
    parser.add_argument("--redis", help="URL; default: a redis-server of our own")
    parser.add_argument("--out", type=Path, metavar="JSON", help="where the report goes")
    parser.add_argument("--repeats", type=int, default=5, help="counted runs of each arm (default: %(default)s)")
    parser.add_argument("--groups", type=int, default=64, help="prompts of a run, n = 8 (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=256, help="tokens of a completion (default: %(default)s)")
    parser.add_argument("--limit-s", type=float, default=1800, help="no turn begins that would end later (%(default)s)")
    arguments = parser.parse_args()
    limit = Limit(seconds=arguments.limit_s)
    with tempfile.TemporaryDirectory(prefix="rollstream-bench-") as temporary:
        folder = arguments.folder or Path(temporary)
        model = mixture(arguments.model, folder)
        engines = Engines(model, arguments.max_num_seqs, arguments.kv_cache_bytes, arguments.memory)
        workload = sampled(model, arguments.groups, arguments.tokens)
        with bench_redis(arguments.redis) as url, Fleet(url, folder) as fleet:
            done = uvloop.run(compare(engines, workload, arguments.repeats, url, fleet, limit, arguments.out))
    report.finish(done, arguments.out)


if __name__ == "__main__":
    main()
