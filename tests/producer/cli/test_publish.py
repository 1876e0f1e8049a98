"""`rollstream publish`, `publish-adapter`, `versions` and `status` as an operator and a script meet them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest

from rollstream import Client
from rollstream.schemas import Job, decode
from tests.producer.operations.test_requests import Operator
from tests.support.faults import Queue
from tests.support.weights.publishing import announced, flush, lora, peft_folder, read_back, reporting


@pytest.fixture
def operator(redis_url: str, policy: str) -> Operator:
    return Operator(redis_url, policy)


def test_submit_takes_version_bounds(operator: Operator, queue: Queue) -> None:
    row = '{"prompt_token_ids": [1]}\n'
    bounds = ("--min-policy-version", "3", "--max-staleness", "1")
    assert operator("submit", "-", "--max-new-tokens", "4", *bounds, stdin=row).exit_code == 0
    job = decode(queue.entries()[0][1][b"payload"], Job)
    assert (job.min_policy_version, job.max_staleness) == (3, 1)
    refused = operator("submit", "-", "--max-new-tokens", "4", "--max-staleness", "-1", stdin=row)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "max_staleness -1: give an integer from 0" in refused.stderr


def test_publish_announces_a_checkpoint_or_an_adapter(
    operator: Operator, models: Path, queue: Queue, policy: str, tmp_path: Path
) -> None:
    done = operator("publish", "1", "--checkpoint", str(models / "step-1"))
    assert (done.exit_code, done.stdout) == (0, f"policy {policy} version 1: checkpoint step-1 published\n")
    adapter = str(peft_folder(tmp_path / "a", lora()))
    other = operator("publish", "2", "--adapter", adapter)
    assert (other.exit_code, other.stdout) == (1, "")
    assert "Publish every version as checkpoint" in other.stderr.replace("\n", " ")

    flush(queue)
    published = operator("publish", "1", "--adapter", adapter)
    assert published.exit_code == 0
    ((_, first),) = announced(queue)
    reporting(queue, "a", 1, policy_sha256=first.sha256)
    done = operator("publish", "1", "--adapter", adapter, "--wait", "--workers", "1")
    assert done.exit_code == 0
    assert done.stdout.splitlines()[-1] == "version 1 is served"
    assert first.source == "adapter"


def test_publish_that_is_not_served_in_time_exits_4(operator: Operator, models: Path, queue: Queue) -> None:
    reporting(queue, "a", 0, policy_error="started without --checkpoint-dir \x1b[2J")
    done = operator("publish", "1", "--checkpoint", str(models / "step-1"), "--wait", "--timeout", "0.2")
    assert done.exit_code == 4
    assert "a serves 0, refused: started without --checkpoint-dir \\x1b[2J" in done.stderr
    assert len(announced(queue)) == 1


def test_publish_exits_1_for_what_cannot_be_published(operator: Operator, models: Path, tmp_path: Path) -> None:
    step_2 = str(models / "step-2")
    assert operator("publish", "5", "--checkpoint", step_2).exit_code == 0
    assert operator("publish", "5", "--checkpoint", step_2).exit_code == 0
    backwards = operator("publish", "4", "--checkpoint", step_2)
    assert (backwards.exit_code, backwards.stdout) == (1, "")
    assert "versions only grow, and the newest is 5" in backwards.stderr
    missing = operator("publish", "6", "--checkpoint", str(tmp_path / "none"))
    assert (missing.exit_code, missing.stdout) == (1, "")
    assert "no folder" in missing.stderr


@pytest.mark.parametrize(
    "args",
    [(), ("--checkpoint", "a", "--adapter", "b"), ("--checkpoint", "a", "--timeout", "1"),
     ("--checkpoint", "a", "--workers", "2"), ("--checkpoint", "a", "--wait", "--workers", "some"),
     ("--checkpoint", "a", "--wait", "--workers", "0")],
)  # fmt: skip
def test_publish_exits_2_for_wrong_usage(operator: Operator, args: tuple[str, ...]) -> None:
    assert operator("publish", "1", *args).exit_code == 2


@pytest.mark.parametrize("version", ["-1", "-17", "0", "99999999999", str(2**31), "1.5"])
def test_publish_exits_2_for_what_is_no_version(operator: Operator, version: str) -> None:
    refused = operator("publish", version, "--checkpoint", "a")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "VERSION" in refused.stderr
    assert "No such option" not in refused.stderr


def test_publish_names_an_option_that_is_not_there(operator: Operator) -> None:
    refused = operator("publish", "1", "--chekpoint", "a")
    assert refused.exit_code == 2
    assert "No such option: --chekpoint" in refused.stderr


def test_publish_adapter_prints_its_name(operator: Operator, queue: Queue, tmp_path: Path) -> None:
    folder = str(peft_folder(tmp_path / "a", lora()))
    done = operator("publish-adapter", "math@17", folder)
    assert (done.exit_code, done.stdout) == (0, "math@17\n")
    read_back(queue, "math@17")
    other = operator("publish-adapter", "math@17", str(peft_folder(tmp_path / "b", lora(1))))
    assert (other.exit_code, other.stdout) == (1, "")
    assert "already published with other content" in other.stderr
    assert operator("publish-adapter", "math", folder).exit_code == 1


def test_versions_shows_what_was_published_and_who_serves_it(
    operator: Operator, client: Client, models: Path, queue: Queue
) -> None:
    client.publish_policy(1, checkpoint=models / "step-1")
    client.publish_policy(2, checkpoint=models / "step-2")
    queue.redis.xadd(queue.keys.versions(), {"payload": b"\xc1\x1b[2J"}, id="3-0")
    reporting(queue, "fresh", 2, newest_version="3", policy_error="cannot be read")
    reporting(queue, "stale", 0)

    found = json.loads(operator("versions", "--json").stdout)
    assert [one["version"] for one in found["versions"]] == [3, 2, 1]
    assert [one["served_by"] for one in found["versions"]] == [[], ["fresh"], []]
    assert found["versions"][1]["location"] == "step-2"
    assert "not a readable msgpack message" in found["versions"][0]["problem"]
    assert found["workers"]["fresh"] == {
        "serves": 2, "newest": 3, "refused": "cannot be read", "draining": False, "prepared": -1, "proof": "",
    }  # fmt: skip
    (_, fields), *_ = cast("list[tuple[bytes, Any]]", queue.redis.xrange(queue.keys.versions()))
    queue.redis.xadd(queue.keys.versions(), fields, id="4-0")
    assert json.loads(operator("versions", "--json").stdout)["versions"][0] == {
        "problem": "its announcement is that of version 1", "version": 4, "active": True, "probe": None,
        "served_by": [], "prepared_by": [],
    }  # fmt: skip
    assert len(json.loads(operator("versions", "--json", "--limit", "1").stdout)["versions"]) == 1

    table = operator("versions").stdout
    assert "\x1b" not in table
    assert "fresh serves 2, refused 3: cannot be read" in table
    for words in ("unreadable", "booted with", "step-1", "stale"):
        assert words in table


def test_status_shows_newer_versions_that_are_on_their_way_or_refused(operator: Operator, queue: Queue) -> None:
    reporting(queue, "a", 2, newest_version="2")
    reporting(queue, "b", 3, newest_version="4")
    reporting(queue, "c", 5, newest_version="6", policy_error="no folder of that name")
    rows = [line.split() for line in operator("status").stdout.splitlines()]
    shown = {row[0]: " ".join(row[2:-2]) for row in rows if row and row[0] in {"a", "b", "c"}}
    assert shown == {"a": "2", "b": "3 (-> 4)", "c": "5 (6 refused)"}
