"""`rollstream results` writes what is there, follows what comes, and its exit code says how it ended."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.support.answers import Answering, error_of, result_of
from tests.support.command_line import Command, lines
from tests.support.worker_process import WorkerProcess, wait_for


def test_submit_and_wait_writes_the_results(
    stub_worker: WorkerProcess, command: Command, prompts: str, tmp_path: Path
) -> None:
    out = tmp_path / "results.jsonl"
    flags = ["--max-new-tokens", "4", "--set", "num_return_sequences=2"]
    done = command("submit", prompts, *flags, "--wait", "--timeout", "60", "--out", str(out))
    assert done.exit_code == 0, done.stderr
    rows = sorted(lines(out.read_text()), key=lambda row: int(row["group"]))
    assert [(row["group"], row["prompt_token_ids"], len(row["completions"])) for row in rows] == [
        (0, [1, 2], 2),
        (1, [3], 2),
    ]
    assert {row["batch_id"] for row in rows} == {done.stdout.strip()}
    assert "2/2" in done.stderr


def test_a_dash_as_the_file_of_results_is_stdout(
    stub_worker: WorkerProcess, command: Command, prompts: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    done = command("submit", prompts, "--max-new-tokens", "4", "--wait", "--timeout", "60", "--out", "-")
    batch_id, *rows = done.stdout.splitlines()
    again = command("results", batch_id, "--out", "-")

    assert sorted(json.loads(row)["group"] for row in rows) == [0, 1]
    assert sorted(again.stdout.splitlines()) == sorted(rows)
    assert not (tmp_path / "-").exists()


def test_failed_groups_exit_3_and_one_line_says_why(stub_worker: WorkerProcess, command: Command) -> None:
    rows = '{"prompt_token_ids": [1]}\n{"prompt_token_ids": [1000000]}\n'
    done = command("submit", "-", "--max-new-tokens", "4", "--wait", "--timeout", "60", stdin=rows)
    assert done.exit_code == 3, done.stderr
    batch_id, told = done.stdout.strip(), done.stderr.splitlines()[-1]
    assert told.startswith("1 of 2 groups failed, the first: token_out_of_vocabulary: prompt: ")
    again = command("results", batch_id)
    assert again.exit_code == 3
    assert told == f"{again.stderr.splitlines()[-1]}; `rollstream results {batch_id}` has all"
    assert {row["group"]: row.get("error", {}).get("code") for row in lines(again.stdout)} == {
        0: None,
        1: "token_out_of_vocabulary",
    }


def test_groups_that_were_cut_are_no_failure_and_said_and_samples_have_their_numbers(
    stub_worker: WorkerProcess, command: Command
) -> None:
    rows = "".join(f'{{"prompt_token_ids": [{5 + number}]}}\n' for number in range(40))
    flags = ["--set", "num_return_sequences=3", "--set", "first_k=2", "--first-groups", "1", "--prompts-per-job", "1"]

    done = command(
        "submit", "-", "--max-new-tokens", "4", *flags, "--wait", "--timeout", "60", "--out", "-", stdin=rows
    )

    assert done.exit_code == 0, done.stderr
    found = [json.loads(row) for row in done.stdout.splitlines()[1:]]
    assert len(found) == 40
    assert {row["error"]["code"] for row in found if "error" in row} <= {"not_needed"}
    numbers = {(len(row["sample_index"]), len(row["cut_lengths"])) for row in found if "error" not in row}
    assert numbers == {(2, 1)}
    kept = sum("error" not in row for row in found)
    told = done.stderr.splitlines()[-1]
    assert told.startswith(f"kept {2 * kept} of ")
    assert f"; cut {kept} of " in told
    assert f"; cut {40 - kept} groups of unknown lengths; in " in told
    again = command("results", done.stdout.splitlines()[0])
    assert again.stderr.splitlines()[-1] == told


def test_waiting_in_vain_exits_4_and_says_how_far_it_came(command: Command, prompts: str) -> None:
    done = command("submit", prompts, "--max-new-tokens", "4", "--wait", "--timeout", "0.3")
    assert done.exit_code == 4
    assert "0 of 2 groups after 0.3 s" in done.stderr
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize(
    ("args", "row"),
    [
        (("submit", "-", "--max-new-tokens", "4", "--wait", "--batch-id", "b"), '{"prompt_token_ids": [1]}'),
        (("score", "-", "--batch-id", "b"), '{"input_ids": [1, 2]}'),
        (("results", "b", "--follow"), ""),
    ],
    ids=["submit", "score", "results"],
)
@pytest.mark.parametrize(
    ("name", "problem"),
    [("nope/a.jsonl", "its folder does not exist"), ("locked.jsonl", "this user may not write to it")],
)
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_queued(
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    args: tuple[str, ...],
    row: str,
    name: str,
    problem: str,
) -> None:
    (locked := tmp_path / "locked.jsonl").touch()
    really = os.access  # of root, to whom nothing is locked
    monkeypatch.setattr("os.access", lambda file, mode: really(file, mode) and (mode, file) != (os.W_OK, locked))
    command.env["COLUMNS"] = "500"

    done = command(*args, "--timeout", "0.3", "--out", str(tmp_path / name), stdin=row)

    assert (done.exit_code, done.stdout) == (2, "")
    assert f"Invalid value for '--out': {tmp_path / name}: {problem}" in done.stderr
    assert command("results", "b").exit_code == 1


# results
@pytest.fixture
def half_done(command: Command, redis_url: str, policy: str, prompts: str) -> Answering:
    """Batch `half`, group 1 of 2 answered."""
    assert command("submit", prompts, "--max-new-tokens", "4", "--batch-id", "half").exit_code == 0
    worker = Answering(redis_url, policy, "half", 2)
    worker.publish(result_of(1, [3], [[7, 8]], "half", texts=("a\x1b[31m",)))
    return worker


def test_results_writes_what_is_there(command: Command, half_done: Answering) -> None:
    done = command("results", "half")
    assert done.exit_code == 5
    assert "batch half: 1 of 2 groups are missing: the batch is not finished" in done.stderr
    assert lines(done.stdout) == [
        {
            "batch_id": "half",
            "group": 1,
            "prompt_token_ids": [3],
            "completions": [
                {
                    "token_ids": [7, 8],
                    "logprobs": [-1.0, -1.125],
                    "finish_reason": "stop",
                    "stop_reason": 8,
                    "text": "a\x1b[31m",
                    "score": None,
                    "version_spans": [[0, 2]],
                }
            ],
        }
    ]
    assert "\x1b" not in done.stdout


def test_results_follow_ends_when_the_batch_is_sealed_and_says_what_failed(
    command: Command, half_done: Answering, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    following = command.start("results", "half", "--follow", "--out", str(out))
    wait_for(lambda: out.exists() and len(out.read_text().splitlines()) == 1, 30, lambda: "nothing was written")
    half_done.publish(error_of(0, [1, 2], "half"))
    stdout, stderr = following.communicate(timeout=30)
    assert (following.returncode, stdout) == (3, ""), stderr
    assert stderr.splitlines()[-1] == "1 of 2 groups failed, the first: too_long: prompt: too long by far"
    error = {"code": "too_long", "field": "prompt", "message": "too long by far"}
    assert lines(out.read_text())[1] == {"batch_id": "half", "group": 0, "prompt_token_ids": [1, 2], "error": error}


def test_ctrl_c_exits_130_without_a_traceback(command: Command, half_done: Answering, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    following = command.start("results", "half", "--follow", "--out", str(out))
    wait_for(lambda: out.exists() and len(out.read_text().splitlines()) == 1, 30, lambda: "nothing was written")
    following.send_signal(signal.SIGINT)
    _, stderr = following.communicate(timeout=30)
    assert following.returncode == 130
    assert "Traceback" not in stderr
    assert "interrupted" in stderr


def test_an_unknown_batch_is_one_clear_line(command: Command) -> None:
    done = command("results", "nobody", "--follow")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "batch 'nobody' of policy" in done.stderr


def test_hostile_results_do_not_reach_the_terminal_raw(command: Command, half_done: Answering) -> None:
    half_done.publish(error_of(0, None, "half").model_copy(update={"batch_id": "\x1b]0;owned\x07"}))
    done = command("results", "half")
    assert done.exit_code == 1
    assert "\x1b" not in done.output
