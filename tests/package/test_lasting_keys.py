"""The fixture that looks for keys without a TTL sees each kind of them, and is content with what may last."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rollstream.schemas import Keys
from tests.lasting_keys import without_ttl
from tests.support.worker_process import ROOT

LEAVES_KEYS = """
import pytest
from rollstream.schemas import Keys

def test_leaves_a_report(server, policy):
    server.hset(Keys(policy).worker("w"), "state", "serving")

@pytest.mark.keys_by_hand
def test_leaves_a_report_by_hand(server, policy):
    server.hset(Keys(policy).worker("w"), "state", "serving")

def test_leaves_nothing(server, policy):
    server.set(Keys(policy).worker("w"), "serving", ex=60)
"""


@pytest.fixture
def unwatched(policy: str) -> str:
    """A policy at which the fixture for all tests does not look."""
    return f"unwatched-{policy}"


def test_a_key_that_must_expire_is_found(server: Any, unwatched: str) -> None:
    keys = Keys(unwatched)
    server.hset(keys.worker("w"), "state", "serving")
    server.set(keys.adapter("math@1"), b"manifest")
    server.hset(f"{keys.jobs(0)}:horizons", "1-0", "1")
    server.hset(f"{keys.jobs(0)}-of-a-new-kind", "a", "b")

    assert len(without_ttl(server, unwatched)) == 4

    for key in without_ttl(server, unwatched):
        server.expire(key, 60)
    assert without_ttl(server, unwatched) == []


def test_streams_and_the_control_hash_may_last(server: Any, unwatched: str) -> None:
    keys = Keys(unwatched, partitions=2)
    for stream in (keys.jobs(0), keys.jobs(1), keys.dead(0), keys.versions()):
        server.xadd(stream, {"payload": b""})
    server.hset(keys.control(), "paused", "by an operator")
    server.zadd(keys.batches(0), {"b": 0.0})

    assert without_ttl(server, unwatched) == []


def test_a_batch_may_last_until_its_last_answer(server: Any, unwatched: str) -> None:
    keys = Keys(unwatched)
    ledger, results = keys.ledger("b"), keys.results("b")
    server.hset(ledger, mapping={"groups": 2, "done": 1})
    server.xadd(results, {"kind": "group"})
    assert without_ttl(server, unwatched) == []

    server.hset(ledger, "done", 2)
    assert without_ttl(server, unwatched) == [ledger, results]


def test_results_without_a_ledger_are_found(server: Any, unwatched: str) -> None:
    results = Keys(unwatched).results("b")
    server.xadd(results, {"kind": "group"})

    assert without_ttl(server, unwatched) == [results]


def test_a_test_that_leaves_such_a_key_fails(tmp_path: Path) -> None:
    (tmp_path / "test_leaving.py").write_text(LEAVES_KEYS)
    options = ("-c", ROOT / "pyproject.toml", "-p", "tests.conftest", "-p", "no:cacheprovider", "-q", "-n0")

    done = subprocess.run(
        [sys.executable, "-m", "pytest", *map(str, options), str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert "3 passed, 1 error" in done.stdout
    assert "test_leaves_a_report - AssertionError: these keys stay" in done.stdout
