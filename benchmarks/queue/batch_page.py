"""What a page of 100 groups of a large batch costs: the first, the last without an index, and one whose place is known.

Answers lie in the stream in the order in which groups ended. A page looks for those of its groups, and Redis copies
what is looked through, so that the last page of a batch costs most. `ResultsIndex` keeps what was found.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import redis

from benchmarks.queue.redis_work import Work, between, look
from benchmarks.support import report
from benchmarks.support.report import Report, Scenario
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from rollstream.producer.observe.batch_seen import BatchSeen, GroupState
from rollstream.producer.observe.parts.results_index import ResultsIndex
from rollstream.producer.observe.read_batch import read_batch
from rollstream.producer.redis_io.connection import Connection
from rollstream.schemas import Batch, GenerationConfig, GroupResult, Keys, Tensor, encode
from rollstream.schemas.hashes.ledger import LedgerField
from rollstream.schemas.wire.entry_fields import KIND, PAYLOAD

_N, _PAGE = 8, 100
_BATCH = "large"

Page: TypeAlias = Callable[[], Awaitable[BatchSeen]]


def _answer(group: int, tokens: int) -> bytes:
    shape = (_N, tokens)
    result = GroupResult(
        batch_id=_BATCH,
        group=group,
        prompt=Tensor.of(np.ones(256, np.int32)),
        token_ids=Tensor.of(np.ones(shape, np.int32)),
        lengths=Tensor.of(np.full(_N, tokens, np.int32)),
        response_mask=Tensor.of(np.ones(shape, bool)),
        logprobs=Tensor.of(np.zeros(shape, np.float32)),
        logprobs_flavour="processed",
        finish_reasons=tuple("length" for _ in range(_N)),
        stop_reasons=(None,) * _N,
        version_spans=(((0, tokens),),) * _N,
        worker="gpu-1",
        queued_s=0.1,
        generate_s=1.0,
    )
    return encode(result)


def fill(client: redis.Redis, keys: Keys, groups: int, tokens: int) -> int:
    """Write a batch whose groups were answered in order. Returns the bytes of one answer."""
    config = GenerationConfig(max_new_tokens=tokens, num_return_sequences=_N, logprobs="processed")
    batch = Batch(
        batch_id=_BATCH, num_groups=groups, num_jobs=groups, prompt_width=256, config=config, submitted_at=time.time()
    )
    winners = {LedgerField.group(group): "1700000000000-0|gpu-1|1" for group in range(groups)}
    told = {LedgerField.DESCRIPTION: encode(batch), LedgerField.GROUPS: groups, LedgerField.DONE: groups}
    mapping: Any = {**told, **winners}
    client.hset(keys.ledger(_BATCH), mapping=mapping)
    for group in range(groups):
        payload = _answer(group, tokens)
        client.xadd(keys.results(_BATCH), {KIND: b"group", PAYLOAD: payload})
    return len(payload)


async def timed(client: redis.Redis, page: Page) -> tuple[float, Work, BatchSeen]:
    """Seconds until the page is there, what Redis did for it, and the page."""
    before, began = look(client), time.monotonic()
    seen = await page()
    seconds = time.monotonic() - began
    return seconds, between(before, look(client), seconds), seen


async def measure(url: str, client: redis.Redis, keys: Keys, groups: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Milliseconds of each page, and the details. Pages that need several looks are asked for until they are whole."""
    connection = Connection(access=url, reconnect_s=5)
    page = partial(read_batch, connection, keys, _BATCH, index=ResultsIndex())
    runs: dict[str, float] = {}
    details: dict[str, Any] = {}
    try:
        for name, first in (("first page", 0), ("last page", groups - _PAGE), ("last page again", groups - _PAGE)):
            seconds, cpu_s, looks, mib, seen = 0.0, 0.0, 0, 0.0, None
            while seen is None or any(group.state is GroupState.ANSWERED for group in seen.groups):
                took, work, seen = await timed(client, partial(page, first=first))
                seconds, cpu_s, looks, mib = seconds + took, cpu_s + work.cpu_s, looks + 1, mib + work.bytes_out / 2**20
            runs[name] = 1000 * seconds
            details[name] = {"redis_cpu_ms": round(1000 * cpu_s, 1), "asked": looks, "mib_from_redis": round(mib, 2)}
    finally:
        await connection.aclose()
    return runs, details


def main() -> int:
    """Measure, print and write the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.queue.batch_page", description=__doc__)
    parser.add_argument("--groups", type=int, default=8000, help="(%(default)s)")
    parser.add_argument("--tokens", type=int, default=1024, help="of each of 8 completions (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "batch-page.json")
    arguments = parser.parse_args()
    keys = Keys("pages")
    with EmbeddedRedis() as server, redis.Redis.from_url(server.url) as client:
        nbytes = fill(client, keys, arguments.groups, arguments.tokens)
        runs, details = asyncio.run(measure(server.url, client, keys, arguments.groups))
    about = f"100 of {arguments.groups} groups, {nbytes / 1024:.0f} KiB each"
    scenario = Scenario("page", about, "ms", "first page", {name: [run] for name, run in runs.items()}, details)
    found = Report("pages of a batch", [scenario])
    report.write(arguments.out, [found])
    sys.stdout.write(f"{found.table()}\n{about}: {details}\nwritten to {arguments.out}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
