"""`rollstream golden record` keeps what live workers give, and `golden check` sees what they give otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rollstream.producer.golden.record import made_up_prompts
from rollstream.schemas import Keys, encode
from rollstream.schemas.message_files import GOLDEN_FILES
from tests.support.command_line import Command
from tests.support.weights.golden_jobs import GREEDY, golden, golden_batch, with_logprob
from tests.support.worker_process import WorkerProcess, running_worker

STUB = ("--engine", "stub", "--stub-vocab-size", "1000")


@pytest.fixture
def command(redis_url: str, policy: str) -> Command:
    return Command(redis_url, policy)


@pytest.fixture
def file(stub_worker: WorkerProcess, command: Command, tmp_path: Path) -> Path:
    """Recorded from the stub worker of this test."""
    path = tmp_path / "jobs.golden"
    recorded = command("golden", "record", "--cases", "4", "--out", str(path))
    assert recorded.exit_code == 0, recorded.output
    return path


def test_what_was_recorded_is_given_again(file: Path, command: Command) -> None:
    found = command("golden", "check", str(file), "--json")

    told = json.loads(found.stdout)
    assert (found.exit_code, told["reproduced"], told["problem"]) == (0, True, "")
    assert [one["outcome"] for one in told["completions"]] == ["equal"] * 6
    assert {one["mean"] for one in told["completions"]} == {0.0}
    assert (told["now"]["dtype"], told["recorded"]["vocab_size"]) == ("float32", 1000)


def test_half_of_the_cases_are_greedy_and_half_have_a_seed(file: Path) -> None:
    whole = GOLDEN_FILES.read(file)

    assert [(one.config.temperature, one.config.seed, one.num_cases) for one in whole.batches] == [
        (0.0, None, 2), (1.0, 0, 2),
    ]  # fmt: skip
    assert [case.prompt.tolist() for case in whole.cases[:2]] == [one.tolist() for one in made_up_prompts(1000, 2)]
    assert (whole.policy_version, whole.engine, whole.runs_on) == (0, "stub", "stub")


def test_what_is_off_is_exit_1_with_case_and_numbers(file: Path, command: Command) -> None:
    file.write_bytes(encode(with_logprob(GOLDEN_FILES.read(file), 1, 3, -30.0)))

    found = command("golden", "check", str(file))

    assert found.exit_code == 1
    assert "case 2 (batch 1, row 0), sample 0: token 3 (id " in found.stderr
    assert "nats apart, 0.05 allowed" in found.stderr
    assert "off: 6 completions" in found.stdout
    assert [line.split()[-3] for line in found.stdout.splitlines() if "greedy" in line or "temperature" in line] == [
        "equal", "equal", "off", "equal", "equal", "equal",
    ]  # fmt: skip


def test_prompts_and_options_of_ones_own_are_recorded(
    stub_worker: WorkerProcess, command: Command, tmp_path: Path
) -> None:
    (tmp_path / "prompts").write_text('{"prompt_token_ids": [1, 2]}\n{"prompt_token_ids": [3]}\n')
    path = tmp_path / "jobs.golden"

    recorded = command(
        "golden", "record", "--out", str(path), "--prompts", str(tmp_path / "prompts"), "--max-new-tokens", "9",
        "--set", "top_p=0.9", "--set", "seed=5", "--tolerance", "0.001,0.01",
    )  # fmt: skip

    whole = GOLDEN_FILES.read(path)
    assert (recorded.exit_code, recorded.stdout) == (0, f"{path}\n")
    assert "recorded 4 cases, 6 completions" in recorded.stderr
    assert [case.prompt.tolist() for case in whole.cases] == [[1, 2], [3]] * 2
    assert (whole.batches[1].config.top_p, whole.batches[1].config.seed) == (0.9, 5)
    assert (whole.batches[0].config.max_new_tokens, whole.tolerance and whole.tolerance.largest) == (9, 0.01)
    assert command("golden", "check", str(path)).exit_code == 0


def test_without_a_live_worker_nothing_is_queued(command: Command, tmp_path: Path) -> None:
    found = command("golden", "record", "--out", str(tmp_path / "g"))

    assert (found.exit_code, (tmp_path / "g").exists()) == (1, False)
    assert "has no live worker" in found.stderr


def test_a_job_that_fails_leaves_an_older_file_as_it_was(
    stub_worker: WorkerProcess, command: Command, tmp_path: Path
) -> None:
    (tmp_path / "g").write_bytes(b"older")

    found = command("golden", "record", "--out", str(tmp_path / "g"), "--cases", "2", "--max-new-tokens", "5000")

    assert found.exit_code == 1
    assert "prompt 0 got no completion: too_long: prompt:" in found.stderr
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"older"]


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (("--set", "num_beams=2"), "no beams"),
        (("--max-new-tokens", "60000"), "at most 65536 are kept"),
        (("--out", "nowhere/g"), "its folder does not exist"),
    ],
)
def test_what_no_file_may_hold_is_refused_before_anything_is_queued(
    stub_worker: WorkerProcess, command: Command, server: Any, policy: str, flags: tuple[str, ...], problem: str
) -> None:
    found = command("golden", "record", "--cases", "2", *(() if "--out" in flags else ("--out", "g")), *flags)

    assert found.exit_code == 1
    assert problem in found.stderr
    assert not server.exists(Keys(policy).batches(0))


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (("--tolerance", "1"), "--tolerance '1': write the mean"),
        (("--set", "temperature=0"), "half of the cases are greedy anyway"),
    ],
)
def test_wrong_usage_of_record_exits_2(command: Command, flags: tuple[str, ...], problem: str) -> None:
    found = command("golden", "record", "--out", "g", *flags)

    assert found.exit_code == 2
    assert problem in " ".join(found.stderr.replace("│", " ").split())


def test_another_vocabulary_is_refused_by_name(stub_worker: WorkerProcess, command: Command, tmp_path: Path) -> None:
    (tmp_path / "g").write_bytes(encode(golden(golden_batch(GREEDY, [((7,), (-1.0,))]), model="")))

    found = command("golden", "check", str(tmp_path / "g"))

    assert found.exit_code == 1
    assert "its model knows 100 ids, this one 1000" in found.stderr


def test_another_version_is_refused_by_number_and_digest(
    redis_url: str, policy: str, command: Command, models: Path, tmp_path: Path
) -> None:
    path = tmp_path / "jobs.golden"
    with running_worker(redis_url, policy, *STUB, "--checkpoint-dir", str(models)):
        for version, name in ((1, "booted"), (2, "served")):
            assert command("golden", "record", "--cases", "2", "--out", str(tmp_path / name)).exit_code == 0
            step = str(models / f"step-{version}")
            assert command("publish", str(version), "--checkpoint", step, "--wait", "--timeout", "30").exit_code == 0
        path = tmp_path / "served"
        told = [command("golden", "check", str(tmp_path / name)) for name in ("booted", "served")]

    whole = GOLDEN_FILES.read(path)
    assert (whole.policy_version, len(whole.policy_sha256)) == (1, 64)
    assert [one.exit_code for one in told] == [1, 1]
    assert "recorded under version 0, the boot model, the workers serve version 2 (" in told[0].stderr
    assert f"recorded under version 1 ({whole.policy_sha256[:12]}), the workers serve version 2 (" in told[1].stderr


def test_jobs_that_are_not_answered_in_time_are_cancelled_with_exit_4(
    redis_url: str, policy: str, command: Command, tmp_path: Path, server: Any
) -> None:
    with running_worker(redis_url, policy, *STUB, "--stub-tokens-per-s", "0.1"):
        found = command("golden", "record", "--cases", "2", "--out", str(tmp_path / "g"), "--timeout", "0.5")

        batches = [name.decode() for name in server.zrange(Keys(policy).batches(0), 0, -1)]
        states = [command("results", batch).stdout.count('"cancelled"') for batch in batches]

    assert (found.exit_code, (tmp_path / "g").exists()) == (4, False)
    assert states == [1, 1]
