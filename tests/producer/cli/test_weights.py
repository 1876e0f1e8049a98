"""`rollstream activate`, `publish --probe/--activate/--again` and `versions` as an operator and a script meet them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rollstream import Client, probe_of
from rollstream.schemas.message_files import PROBE_FILES
from tests.producer.operations.test_requests import Operator
from tests.support.faults import Queue
from tests.support.weights.publishing import announced, reporting

PROBE = probe_of([list(range(5, 22))], [[-1.0] * 16], vocab_size=512)


@pytest.fixture
def operator(redis_url: str, policy: str) -> Operator:
    return Operator(redis_url, policy)


@pytest.fixture
def checkpoint(models: Path) -> tuple[str, str]:
    return "--checkpoint", str(models / "step-1")


def test_publish_takes_a_probe_and_says_what_comes_next(
    operator: Operator, checkpoint: tuple[str, str], queue: Queue, tmp_path: Path
) -> None:
    PROBE_FILES.write(tmp_path / "p.probe", PROBE)
    prepared = ("--activate", "when-prepared", "--share", "0.75", "--activate-after", "60")
    done = operator("publish", "1", *checkpoint, "--probe", str(tmp_path / "p.probe"), *prepared)
    assert done.exit_code == 0
    assert done.stdout.endswith("published; workers serve it once 75% of them have prepared it, or 60 s have passed\n")
    done = operator("publish", "2", *checkpoint, "--activate", "by-hand")
    assert done.stdout.endswith("published; workers prepare it, and serve it after `rollstream activate 2`\n")
    (_, first), (_, second) = announced(queue)
    assert (first.probe, first.activate.share, first.activate.timeout_s) == (PROBE, 0.75, 60.0)
    assert second.activate.when == "by_hand"


def test_activate_lets_workers_serve_a_version(
    operator: Operator, checkpoint: tuple[str, str], client: Client, policy: str, queue: Queue
) -> None:
    operator("publish", "1", *checkpoint, "--activate", "by-hand")
    done = operator("activate", "1", "--by", "ann")
    assert (done.exit_code, done.stdout) == (0, f"policy {policy} version 1 is active\n")
    assert client.newest_version() == 1
    assert operator("activate", "1").exit_code == 0, "the same again is no fault"
    reporting(queue, "a", 1, policy_sha256=announced(queue)[0][1].sha256)
    done = operator("activate", "1", "--wait", "--workers", "1")
    assert done.stdout.splitlines()[-1] == "version 1 is served"
    reporting(queue, "a", 0)
    assert operator("activate", "1", "--wait", "--timeout", "0.2").exit_code == 4


def test_activate_exits_1_for_what_cannot_be_activated(operator: Operator, checkpoint: tuple[str, str]) -> None:
    unknown = operator("activate", "1")
    assert (unknown.exit_code, unknown.stdout) == (1, "")
    assert "nobody has announced it, the newest is 0" in unknown.stderr
    operator("publish", "1", *checkpoint, "--activate", "by-hand")
    operator("publish", "2", *checkpoint)
    late = operator("activate", "1")
    assert late.exit_code == 1
    assert "rollstream publish 3 --again 1" in late.stderr


def test_publish_again_goes_back(operator: Operator, models: Path, queue: Queue) -> None:
    for version in ("1", "2"):
        operator("publish", version, "--checkpoint", str(models / f"step-{version}"))
    done = operator("publish", "3", "--again", "1")
    assert done.exit_code == 0
    assert "version 3: checkpoint step-1 published" in done.stdout
    gone = operator("publish", "5", "--again", "4")
    assert gone.exit_code == 1
    assert "nobody has announced version 4, the newest is 3: publish its weights themselves" in gone.stderr
    assert len(announced(queue)) == 3


@pytest.mark.parametrize(
    "args",
    [("publish", "1", "--checkpoint", "a", "--again", "1"), ("publish", "1", "--checkpoint", "a", "--share", "0.5"),
     ("publish", "1", "--checkpoint", "a", "--activate-after", "5", "--activate", "by-hand"),
     ("publish", "1", "--checkpoint", "a", "--activate", "when-prepared", "--share", "1.5"),
     ("publish", "1", "--checkpoint", "a", "--activate", "some-day"), ("activate", "0"), ("activate", "-1"),
     ("activate", "1", "--timeout", "5"), ("publish", "1", "--checkpoint", "a", "--activate", "by-hand", "--wait")],
    ids=str,
)  # fmt: skip
def test_wrong_usage_exits_2(operator: Operator, args: tuple[str, ...]) -> None:
    assert operator(*args).exit_code == 2


@pytest.mark.parametrize(
    ("content", "told"),
    [(None, "cannot be read: No such file"), (b"x" * 50, "holds no probe"), (b"x" * 2**21, "more than")],
)
def test_a_file_that_is_no_probe_is_named(
    operator: Operator, checkpoint: tuple[str, str], queue: Queue, tmp_path: Path, content: bytes | None, told: str
) -> None:
    if content is not None:
        (tmp_path / "p").write_bytes(content)
    refused = operator("publish", "1", *checkpoint, "--probe", str(tmp_path / "p"))
    assert refused.exit_code == 1
    assert told in refused.stderr
    assert announced(queue) == []


def test_versions_tells_what_is_to_be_served_what_waits_and_how_it_was_proven(
    operator: Operator, checkpoint: tuple[str, str], queue: Queue, tmp_path: Path
) -> None:
    PROBE_FILES.write(tmp_path / "p", PROBE)
    operator("publish", "1", *checkpoint, "--probe", str(tmp_path / "p"))
    operator("publish", "2", *checkpoint, "--activate", "by-hand")
    operator("publish", "3", *checkpoint, "--activate", "when-prepared")
    reporting(queue, "a", 1, prepared_version="3", policy_proof="mean 0.01 nats off")
    reporting(queue, "b", 1, prepared_version="1", policy_error="version 3, not active yet: half-written")

    found = json.loads(operator("versions", "--json").stdout)
    assert found["newest"] == 1
    rows = [(one["version"], one["active"], one["prepared_by"]) for one in found["versions"]]
    assert rows == [(3, False, ["a"]), (2, False, ["a"]), (1, True, [])]
    assert [one["probe"] for one in found["versions"]] == [None, None, {"rows": 1, "tokens": 17}]
    assert found["workers"]["a"]["proof"] == "mean 0.01 nats off"

    table = operator("versions").stdout
    for words in (
        "to serve",
        "version 3: announced, to be served once 100% of the workers have prepared it; prepared by 1 of 2 workers",
        "version 2: announced, waits for `rollstream activate 2`; prepared by 1 of 2 workers",
        "version 1: proven by 1 of 2 workers, the first: mean 0.01 nats off",
        "version 3, not active yet: half-written",
    ):
        assert words in table
