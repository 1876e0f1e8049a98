"""What it saves to stop at the first k samples or the first m groups of a batch, and what that prefers.

One stub worker, of whose samples a tenth runs eight times as long as the others. Measured is the time from the submit
of a batch until it is complete, in turns: all samples, the first 6 of 8, 6 alone, and the first 6 of 8 of most groups.
The details have the lengths of what was kept and what was cut.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.support import report
from benchmarks.support.fleet import Fleet
from benchmarks.support.report import Report, Scenario
from rollstream import AsyncClient, GenerationConfig, RolloutBatch
from rollstream.producer.demo.embedded_redis import EmbeddedRedis

POLICY = "tails"
_TOKENS_PER_S = 200
_LIMIT_S = 300
_FIRST_PROMPT = 3


def arms(prompts: int, tokens: int) -> dict[str, tuple[GenerationConfig, int | None]]:
    """For each arm how it samples, and how many groups it wants."""
    all_of_8 = GenerationConfig(max_new_tokens=tokens, num_return_sequences=8, eos_token_id=(2,))
    first_6 = all_of_8.model_copy(update={"first_k": 6})
    return {
        "all 8": (all_of_8, None),
        "first 6 of 8": (first_6, None),
        "all 6": (all_of_8.model_copy(update={"num_return_sequences": 6}), None),
        "first 6 of 8, 9 of 10 groups": (first_6, prompts * 9 // 10),
    }


async def measure(url: str, places: int, prompts: int, tokens: int, repeats: int) -> Scenario:
    """The seconds of each arm's batches, in turns."""
    chosen = arms(prompts, tokens)
    runs: dict[str, list[float]] = {arm: [] for arm in chosen}
    details: dict[str, Any] = {}
    async with AsyncClient(url, policy=POLICY) as client:
        for turn in range(repeats):
            rows = [[_FIRST_PROMPT + turn * prompts + number] for number in range(prompts)]
            for arm, (config, first_groups) in chosen.items():
                began = time.perf_counter()
                options: Any = {"timeout": _LIMIT_S, "first_groups": first_groups, "prompts_per_job": 4}
                rollouts = await client.generate(rows, None, config, **options)
                runs[arm].append(time.perf_counter() - began)
                details[arm] = _told(rollouts)
                report.say(f"{places} places, {arm}: {runs[arm][-1]:.2f} s; {rollouts.selection or 'nothing cut'}")
    about = f"{prompts} prompts, {tokens // 8} tokens, a tenth {tokens}, {_TOKENS_PER_S} tok/s a sequence"
    return Scenario(f"{places} places", about, "s", "all 8", runs, details, x=places)


def _told(rollouts: RolloutBatch) -> dict[str, Any]:
    """What the last batch of an arm was like."""
    lengths, selection = rollouts.response_lengths, rollouts.selection
    ended = lengths[lengths > 0].float()
    return {
        "rows": len(ended),
        "mean_length": round(float(ended.mean()), 1),
        "selection": None if selection is None else asdict(selection) | {"line": str(selection)},
    }


async def _run(places: list[int], prompts: int, tokens: int, repeats: int) -> Report:
    found = []
    for number in places:
        with tempfile.TemporaryDirectory(prefix="rollstream-bench-") as folder, EmbeddedRedis() as server:
            fleet = Fleet(server.url, Path(folder))
            try:
                fleet.start(
                    POLICY, "--engine", "stub", "--stub-long-tail", "samples", "--stub-tokens-per-s",
                    str(_TOKENS_PER_S), "--max-num-seqs", str(number),
                ).wait_until_serving()  # fmt: skip
                found.append(await measure(server.url, number, prompts, tokens, repeats))
            finally:
                fleet.end()
    return Report("tails", found)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.queue.tails", description=__doc__)
    parser.add_argument(
        "--places", type=int, nargs="+", default=[64, 512], help="sequences that the engine runs (default: 64 512)"
    )
    parser.add_argument("--prompts", type=int, default=64, help="prompts of a batch (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=800, help="tokens of a long sample (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="batches of each arm (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="write the report here, as JSON")
    given = parser.parse_args()
    report.finish(asyncio.run(_run(given.places, given.prompts, given.tokens, given.repeats)), given.out)


if __name__ == "__main__":
    main()
