"""No token is lost, doubled or out of order on its way out of EngineCore, whatever comes in between. Without vLLM."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rollstream.worker.engines.vllm.columns import Rows as Columns
from rollstream.worker.engines.vllm.inside.held_tokens import PIECE, HeldBack
from tests.worker.engines.vllm.inside.stepped_engine import Engine, Output, Rows, Step, output, placed, wide


@pytest.mark.parametrize("length", [1, 2, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 100])
@pytest.mark.parametrize("logprobs", [True, False])
def test_all_tokens_arrive_in_order_and_in_few_messages(length: int, logprobs: bool) -> None:
    engine = Engine()
    engine.add("a", logprobs=0 if logprobs else None)

    for token in range(length):
        engine.step(output("a", token, last=token == length - 1, logprobs=logprobs))

    assert engine.tokens("a") == list(range(length))
    assert engine.logprobs("a") == ([-token / 8 for token in range(length)] if logprobs else [])
    assert len(engine.got["a"]) == -(-length // PIECE)
    assert engine.held.parts == {}


@pytest.mark.parametrize("piece", [1, 4, PIECE, 1000])
def test_a_request_that_is_followed_leaves_in_pieces_of_its_own_beside_others(piece: int) -> None:
    engine = Engine()
    engine.add("followed", piece=piece)
    engine.add("other")

    for token in range(100):
        last = token == 99
        engine.step(output("followed", token, last=last), output("other", token, last=last))

    assert engine.tokens("followed") == engine.tokens("other") == list(range(100))
    assert engine.logprobs("followed") == [-token / 8 for token in range(100)]
    assert next(len(tokens) for _, tokens, _ in engine.got["followed"]) == min(piece, PIECE)
    assert len(engine.got["other"]) == -(-100 // PIECE)


def test_logprobs_are_the_sampled_tokens_own_whatever_others_in_the_batch_asked_for() -> None:
    engine = Engine()
    engine.add("a")

    for token, columns in enumerate([2, 129, 9, 2]):
        engine.step(output("a", token, columns=columns, last=token == 3))

    assert engine.logprobs("a") == [0, -1 / 8, -2 / 8, -3 / 8]


def test_steps_of_several_tokens_keep_each_ones_logprob() -> None:
    engine = Engine()
    engine.add("a")

    for tokens in ([0, 1, 2], [3], [4, 5]):
        ids = np.array(tokens)
        rows = Rows(ids[:, None] + [0, 1], -ids[:, None] / 8 - [0, 1], ids)
        engine.step(Output("a", tokens, placed(rows), "length" if tokens[-1] == 5 else None))

    assert engine.tokens("a") == [0, 1, 2, 3, 4, 5]
    assert engine.logprobs("a") == [-token / 8 for token in range(6)]


@pytest.mark.parametrize("length", [1, 2, PIECE + 1, 100])
def test_a_requests_own_columns_and_no_others_travel_with_its_pieces(length: int) -> None:
    engine = Engine()
    engine.add("a", logprobs=2)
    read: list[Rows] = []
    for token in range(length):
        step = Step([Output("a", [token], wide(token, 3 + token % 5), "length" if token == length - 1 else None)])
        engine.held.take(step, engine.requests)
        read += [one.new_logprobs for one in step.outputs]

    whole = Columns(columns=3)  # the frontend's: an end that was not held still has the columns of others
    for rows in read:
        whole.add(rows)
    ids, logprobs = whole.token_ids.reshape(-1, 3), whole.logprobs.reshape(-1, 3)
    assert {rows.logprobs.shape[1] for rows in read[:-1]} <= {3}
    assert len(read) == -(-length // PIECE)
    assert ids.tolist() == [[token, token + 1, token + 2] for token in range(length)]
    assert logprobs.tolist() == [[-token, -token - 1, -token - 2] for token in range(length)]


def test_a_step_with_fewer_columns_than_were_asked_for_does_not_end_the_engine() -> None:
    engine = Engine()
    engine.add("a", logprobs=4)
    engine.held.take(Step([Output("a", [0], wide(0, 5))]), engine.requests)
    engine.held.take(Step([Output("a", [1], wide(1, 2))]), engine.requests)
    step = Step([Output("a", [2], wide(2, 5), "length")])

    engine.held.take(step, engine.requests)

    assert step.outputs[0].new_token_ids == [0, 1, 2]
    assert step.outputs[0].new_logprobs.logprob_token_ids.tolist() == [[0, 1], [1, 2], [2, 3]]


def test_columns_of_an_older_weight_version_are_sent_with_its_tokens() -> None:
    engine = Engine()
    engine.add("a", logprobs=2)
    for token in range(3):
        engine.held.take(Step([Output("a", [token], wide(token, 3))], "1"), engine.requests)

    (earlier,) = engine.held.take(Step([Output("a", [3], wide(3, 3))], "2"), engine.requests)

    assert earlier.new_token_ids == [0, 1, 2]
    assert earlier.new_logprobs.logprob_token_ids.tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 4]]


def test_an_end_without_a_token_brings_what_was_held_back() -> None:
    engine = Engine()
    engine.add("a")
    engine.step(output("a", 0))
    engine.step(output("a", 1))

    engine.step(Output("a", [], None, "error"))

    assert (engine.tokens("a"), engine.logprobs("a")) == ([0, 1], [0, -1 / 8])


@pytest.mark.parametrize("fields", [{"kind": "DELTA"}, {"kind": "CUMULATIVE"}, {"detokenize": True}, {"logprobs": -1}])
def test_what_is_wanted_token_by_token_or_with_the_whole_vocabulary_comes_so(fields: dict[str, Any]) -> None:
    engine = Engine()
    engine.add("a", **fields)

    for token in range(3):
        engine.step(output("a", token))

    assert [tokens for _, tokens, _ in engine.got["a"]] == [[0], [1], [2]]


@pytest.mark.parametrize("more", [["queued"], np.zeros((2, 3))])
def test_outputs_with_more_than_tokens_are_left_alone(more: Any) -> None:
    engine = Engine()
    engine.add("a")
    first = output("a", 0)
    first.events = more

    engine.step(first)

    assert engine.tokens("a") == [0]


def test_events_of_held_outputs_leave_with_their_piece() -> None:
    engine = Engine(held=HeldBack(events=True))
    engine.add("a")
    engine.add("b")
    told: list[Any] = []
    for token in range(2 * PIECE):
        step = Step([output("a", token), output("b", token)])
        step.outputs[0].events = {0: ["queued"], 3: ["put back"], 5: ["put back", "runs"]}.get(token)
        engine.held.take(step, engine.requests)
        told += [one.events for one in step.outputs if one.request_id == "a"]

    assert told == [["queued"], ["put back", "put back", "runs"]]


def test_tokens_of_an_older_weight_version_are_sent_under_it_also_of_one_that_ends_in_the_next_step() -> None:
    engine = Engine()
    engine.add("goes on")
    engine.add("ends")
    for token in range(3):
        engine.step(output("goes on", token), output("ends", token), version="1")

    engine.step(output("goes on", 3), output("ends", 3, last=True), version="2")
    engine.step(output("goes on", 4, last=True), version="2")

    assert [(version, tokens) for version, tokens, _ in engine.got["goes on"]] == [("1", [0, 1, 2]), ("2", [3, 4])]
    assert [(version, tokens) for version, tokens, _ in engine.got["ends"]] == [("1", [0, 1, 2]), ("2", [3])]


def test_an_aborted_request_is_forgotten() -> None:
    engine = Engine()
    engine.add("a")
    engine.add("b")
    engine.step(output("a", 0), output("b", 0))

    del engine.requests["a"]
    engine.step(output("b", 1))

    assert set(engine.held.parts) == {"b"}
