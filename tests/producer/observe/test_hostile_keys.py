"""Whatever somebody wrote into a policy's keys, a reading goes on, has printable texts, and names what is missing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest

from rollstream import AsyncClient
from rollstream.producer.observe.fleet import Fleet
from rollstream.producer.observe.read_fleet import FleetReader
from rollstream.schemas import Keys, PolicyVersion, encode
from rollstream.schemas.hashes.ledger import LedgerField
from rollstream.schemas.keys import totals
from tests.support.fault_steps import tokens
from tests.support.reports import report_of

pytestmark = pytest.mark.keys_by_hand

HOSTILE = b"\x1b[2J\x1b]0;x\x07<script>alert(1)</script>\xff\xfe\xe2\x80\xae\r\n"
HUGE = HOSTILE * 5000
LONGEST = 600
KINDS: dict[str, Callable[[Keys], str]] = {
    "jobs": lambda keys: keys.jobs(0),
    "dead letters": lambda keys: keys.dead(0),
    "batches": lambda keys: keys.batches(0),
    "ledger": lambda keys: keys.ledger("b"),
    "totals": lambda keys: totals(keys.jobs(0)),
    "control": lambda keys: keys.control(),
    "workers": lambda keys: keys.workers(),
    "report": lambda keys: keys.worker("w"),
    "rate": lambda keys: keys.rate(),
    "versions": lambda keys: keys.versions(),
    "history": lambda keys: keys.history(int(time.time() // 60)),
}


def texts_in(value: Any) -> list[str]:
    """All texts in a reading."""
    match value:
        case str():
            return [value]
        case dict():
            return [text for pair in value.items() for one in pair for text in texts_in(one)]
        case list() | tuple():
            return [text for one in value for text in texts_in(one)]
        case _:
            return []


def assert_is_fit(fleet: Fleet) -> None:
    texts = texts_in(asdict(fleet))
    assert [text for text in texts if not text.isprintable() or len(text) > LONGEST] == []
    json.dumps(asdict(fleet), allow_nan=False)


async def filled(trainer: AsyncClient, server: Any, keys: Keys) -> None:
    await trainer.submit([[1]], None, tokens(1), batch_id="b")
    report_of(server, keys, "w", {"state": "serving", "tokens_per_s": "5"})
    version = PolicyVersion(
        version=1, source="checkpoint", location="s", sha256="0" * 64, published_at=time.time(), requires=()
    )
    server.xadd(keys.versions(), {"payload": encode(version)}, id="1-0")
    server.hset(keys.rate(), "tokens_per_s", "5")


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("kind", ["text", "list"])
async def test_a_key_of_another_type_empties_its_part_and_no_other(
    reader: FleetReader, trainer: AsyncClient, server: Any, keys: Keys, name: str, kind: str
) -> None:
    await filled(trainer, server, keys)
    whole = await reader.read()
    key = KINDS[name](keys)
    server.delete(key)
    if kind == "text":
        server.set(key, HUGE)
    else:
        server.rpush(key, HOSTILE)

    fleet = await reader.read()

    assert_is_fit(fleet)
    assert [problem for problem in fleet.problems if "WRONGTYPE" in problem] == list(fleet.problems)
    assert fleet.problems
    parts = {
        "workers": (fleet.workers, whole.workers, name in {"workers", "report"}),
        "versions": (fleet.versions, whole.versions, name in {"versions", "workers", "report"}),
        "batches": (fleet.batches, whole.batches, name in {"batches", "ledger"}),
        "rate": (fleet.rate, whole.rate, name == "rate"),
    }
    changed = [part for part, (now, before, may) in parts.items() if not may and len_of(now) != len_of(before)]
    assert changed == []


def len_of(part: Any) -> Any:
    return len(part) if isinstance(part, tuple) else part


async def test_hostile_values_in_every_field_are_printable_text(
    reader: FleetReader, trainer: AsyncClient, server: Any, keys: Keys
) -> None:
    await trainer.submit([[1]], None, tokens(1), batch_id="b")
    fields = dict.fromkeys(("state", "engine", "model", "policy_error", "process", "paused_for"), HUGE)
    numbers = ("seen_at", "tokens_per_s", "running_groups", "policy_version", "heartbeat_s", "partitions")
    report_of(server, keys, "hostile", {**fields, **dict.fromkeys(numbers, HUGE)})
    report_of(server, keys, "infinite", dict.fromkeys(numbers, b"inf"))
    server.zadd(keys.workers(), {HOSTILE: time.time(), HUGE: time.time(), b"never": "-inf", b"late": "inf"})
    server.zadd(keys.batches(0), {HOSTILE: 1, HUGE: 2, b"no-ledger": 3, b"never": "-inf", b"later": "inf"})
    minute = keys.history(int(time.time() // 60))
    server.hset(minute, mapping={b"error:" + HUGE: 3, b"staleness:" + HUGE: 1, b"groups": HUGE, b"staleness:2": b"-1"})
    server.hset(keys.rate(), mapping={"tokens_per_s": b"nan", "mean_length": HUGE, "share": b"-1", "answers": HUGE})
    server.hset(keys.control(), "paused", HUGE)
    server.hset(totals(keys.jobs(0)), mapping={"tokens_queued": HUGE, "groups_queued": b"-5"})
    version = PolicyVersion(version=6, source="checkpoint", location="s", sha256="0" * 64, published_at=float("-inf"))
    server.xadd(keys.versions(), {"payload": encode(version)}, id="6-0")
    server.xadd(keys.versions(), {HUGE: HUGE, b"payload": HUGE}, id="7-0")
    server.xadd(keys.dead(0), {b"letter": HUGE, b"payload": HUGE})

    fleet = await reader.read()

    assert_is_fit(fleet)
    assert [worker.report.running_groups for worker in fleet.workers if worker.consumer == "hostile"] == [None]
    assert [batch.batch_id for batch in fleet.batches] == ["b"]
    assert (fleet.rate.tokens_per_s, fleet.backlog, fleet.open_tokens) == (None, None, 0)
    assert fleet.paused
    assert fleet.paused_s_ago is None


@pytest.mark.parametrize(
    ("field", "value"),
    [(LedgerField.GROUPS, HUGE), (LedgerField.DONE, b"-1"), (LedgerField.DONE, b"9" * 400)],
)
async def test_a_ledger_that_no_script_wrote_is_left_out_by_name(
    reader: FleetReader, trainer: AsyncClient, server: Any, keys: Keys, field: str, value: bytes
) -> None:
    for name in ("b", "good"):
        await trainer.submit([[1]], None, tokens(1), batch_id=name)
    server.hset(keys.ledger("b"), field, value)

    fleet = await reader.read()

    assert_is_fit(fleet)
    assert [batch.batch_id for batch in fleet.batches] == ["good"]
    assert [problem.startswith("batch b is left out") for problem in fleet.problems] == [True]


async def test_a_batch_that_expired_is_not_shown(
    reader: FleetReader, trainer: AsyncClient, server: Any, keys: Keys
) -> None:
    await trainer.submit([[1]], None, tokens(1), batch_id="b")
    assert len((await reader.read()).batches) == 1
    server.delete(keys.ledger("b"))

    assert (await reader.read()).batches == ()
