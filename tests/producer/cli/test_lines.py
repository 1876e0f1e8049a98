"""A line of `rollstream results` has all that the batch's config asked for."""

from __future__ import annotations

import json

import numpy as np

from rollstream.producer.cli.jsonl import result_line
from rollstream.schemas import Tensor
from tests.support.command_line import Command, lines
from tests.support.engine.candidates import rich_result
from tests.support.worker_process import WorkerProcess


def test_a_completion_has_what_was_asked_for_and_no_padding() -> None:
    rich = rich_result(0, [3], [[7, 8], [9]], k=2, kept=[[[7], [8, 6]], [[9]]], forced=[[0, 1], [0, 0]])

    first, second = json.loads(result_line(rich))["completions"]

    assert (first["top_token_ids"], first["top_logprobs"]) == ([[0, 1], [10, 11]], [[0, -1], [-0.125, -1.125]])
    assert (first["support"], first["forced"]) == ([[7], [8, 6]], [False, True])
    assert (second["top_token_ids"], second["support"], second["forced"]) == ([[100, 101]], [[9]], [False])
    assert "label_logprobs" not in first


def test_a_label_that_was_ruled_out_is_null() -> None:
    labels = Tensor.of(np.array([[[-0.5, -np.inf]], [[-1.0, -2.0]]], np.float32))

    rows = json.loads(result_line(rich_result(0, [3], [[7], [9]], label_logprobs=labels)))["completions"]

    assert [row["label_logprobs"] for row in rows] == [[[-0.5, None]], [[-1.0, -2.0]]]
    assert "top_token_ids" not in rows[0]


def test_results_have_the_candidates_that_submit_asked_for(command: Command, stub_worker: WorkerProcess) -> None:
    asked = "--set", "top_logprobs=2", "--set", "seed=1"
    done = command(
        "submit", "-", *asked, "--max-new-tokens", "3", "--wait", "--timeout", "60", stdin='{"prompt_token_ids": [1]}'
    )

    [row] = lines(command("results", done.stdout.splitlines()[0]).stdout)

    [one] = row["completions"]
    assert [len(column) for column in one["top_token_ids"]] == [2] * len(one["token_ids"])
    assert [len(column) for column in one["top_logprobs"]] == [2] * len(one["token_ids"])
