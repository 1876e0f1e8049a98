"""`rollstream score` writes what workers answer, and says which line of its file is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import redis
from typer.testing import CliRunner

from rollstream.producer.cli.app import app
from rollstream.schemas import Keys, ScoreJob, decode
from rollstream.worker.engines.stub_likelihoods import likelihoods
from tests.support.worker_process import WorkerProcess


def command(redis_url: str, policy: str, *args: str, **more: Any) -> Any:
    return CliRunner(env={"ROLLSTREAM_REDIS": redis_url, "ROLLSTREAM_POLICY": policy}).invoke(app, list(args), **more)


def test_rows_of_a_file_become_lines_of_scores(
    redis_url: str, policy: str, tmp_path: Path, stub_worker: WorkerProcess
) -> None:
    rows, out = tmp_path / "rows.jsonl", tmp_path / "scores.jsonl"
    rows.write_text('{"input_ids": [5, 6, 7, 8], "first": 2}\n\n{"input_ids": [9, 10]}\n{"input_ids": [1, 9999999]}\n')
    options = "--top-logprobs", "2", "--batch-id", "b", "--timeout", "30"

    done = command(redis_url, policy, "score", str(rows), *options, "--out", str(out))

    assert done.exit_code == 3, done.output
    lines = sorted(map(json.loads, out.read_text().splitlines()), key=lambda line: line["group"])
    assert lines[0]["log_probs"] == likelihoods([5, 6, 7, 8], 2, "", 0, 2)[:, 0].tolist()
    assert [len(column) for column in lines[0]["top_token_ids"]] == [2, 2]
    assert (lines[1]["version"], len(lines[1]["log_probs"])) == (0, 1)
    assert lines[2]["error"]["code"] == "token_out_of_vocabulary"
    assert "batch b: 3 rows in 1 jobs" in done.stderr
    assert "1 of 3 groups failed, the first: token_out_of_vocabulary: " in done.stderr

    again = command(redis_url, policy, "results", "b", "--follow", "--timeout", "30")
    assert sorted(again.stdout.splitlines()) == sorted(out.read_text().splitlines())


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"prompt_token_ids": [1, 2]}', "<stdin>:1: a row is"),
        ('{"input_ids": [1, 2], "frist": 1}', "<stdin>:1: a row is"),
        ("[1, 2]", "<stdin>:1: a row is"),
        ('{"input_ids": [1]}', '<stdin>:1: "input_ids" has 1 ids: the first one cannot be scored'),
        ('{"input_ids": [1, -2]}', '<stdin>:1: "input_ids" must be a list of integers'),
        ('{"input_ids": [1, 2], "first": 2}', '<stdin>:1: "first" must be a position from 1 to 1, of 2 ids'),
        ('{"input_ids": [1, 2], "first": true}', '<stdin>:1: "first" must be a position'),
        ("", "<stdin>: no rows"),
    ],
)
def test_a_bad_line_is_named(redis_url: str, policy: str, line: str, words: str) -> None:
    done = command(redis_url, policy, "score", "-", input=line)
    assert (done.exit_code, words in done.stderr) == (1, True), done.output


def test_both_bounds_on_versions_reach_the_job(redis_url: str, policy: str) -> None:
    bounds = "--min-policy-version", "3", "--max-staleness", "2"
    options = "--batch-id", "bound", "--timeout", "0.2"
    command(redis_url, policy, "score", "-", *bounds, *options, input='{"input_ids": [1, 2]}')

    with redis.Redis.from_url(redis_url) as queue:
        [(_, entry)] = queue.xrange(Keys(policy).jobs(0))
    job = decode(entry[b"payload"], ScoreJob)
    assert (job.min_policy_version, job.max_staleness) == (3, 2)


def test_without_a_worker_it_times_out_and_names_the_batch(redis_url: str, policy: str) -> None:
    done = command(redis_url, policy, "score", "-", "--timeout", "0.2", input='{"input_ids": [1, 2]}')
    assert done.exit_code == 4
    assert "0 of 1 groups after 0.2 s" in done.stderr
