"""Beam search on a toy model whose log-probs are a table: against an exhaustive search, and rule by rule."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rollstream.schemas import ErrorCode, GenerationConfig
from rollstream.worker.errors import DataError
from rollstream.worker.jobs.beam_search import Search, advance, beam_search
from rollstream.worker.requests import Adapter, Expanded, GenerateRequest, NextTokens
from tests.support.engine.table_engine import EOS, TableEngine, answer


def request(stops: tuple[int, ...] = (EOS,), adapter: Adapter | None = None, **fields: Any) -> GenerateRequest:
    config = GenerationConfig(**{"max_new_tokens": 4, "num_beams": 3, "num_return_sequences": 3, **fields})
    return GenerateRequest(
        request_id="r", prompt=[1, 2], config=config, stop_token_ids=stops, seed=None, adapter=adapter
    )


def exhaustive(engine: TableEngine, wanted: GenerateRequest) -> list[tuple[float, tuple[int, ...]]]:
    """Every completion that ends in a stop id or at the length, best score first."""
    vocab = engine.table.shape[1]
    found = []
    for length in range(1, wanted.config.max_new_tokens + 1):
        for tokens in itertools.product(range(vocab), repeat=length):
            stops = [token in wanted.stop_token_ids for token in tokens]
            ends = stops[-1] or length == wanted.config.max_new_tokens
            if any(stops[:-1]) or not ends:
                continue
            total = sum(engine.logprobs([*wanted.prompt, *tokens[:i]])[token] for i, token in enumerate(tokens))
            found.append((total / length**wanted.config.length_penalty, tokens))
    return sorted(found, reverse=True)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("length_penalty", [-0.5, 0.0, 1.0, 2.0])
@pytest.mark.parametrize("stops", [(), (EOS,), (EOS, 3)])
async def test_with_beams_enough_it_is_an_exhaustive_search(
    seed: int, length_penalty: float, stops: tuple[int, ...]
) -> None:
    engine = TableEngine(seed)
    # 64 beams hold every live prefix of 3 tokens over 4 ids, so nothing is pruned before the last step.
    wanted = request(
        stops, num_beams=64, num_return_sequences=8, max_new_tokens=3,
        length_penalty=length_penalty, early_stopping="never",
    )  # fmt: skip

    found = await beam_search(engine, wanted)

    expected = exhaustive(engine, wanted)[:8]
    assert [tuple(beam.token_ids) for beam in found] == [tokens for _, tokens in expected]
    assert [beam.score for beam in found] == pytest.approx([score for score, _ in expected])


async def test_a_late_stop_ends_no_beam_before_min_new_tokens_and_is_not_banned() -> None:
    engine = TableEngine(3)
    options: dict[str, Any] = {"num_beams": 64, "num_return_sequences": 64, "max_new_tokens": 3, "min_new_tokens": 1}
    wanted = replace(request((), early_stopping="never", **options), late_stop_ids=(EOS,))

    found = await beam_search(engine, wanted)

    beams = {tuple(beam.token_ids.tolist()): beam.stop_reason for beam in found}
    assert any(tokens[0] == EOS and len(tokens) == 3 for tokens in beams)
    assert any(len(tokens) == 2 for tokens in beams)
    assert {len(tokens) > 1 and tokens[-1] == EOS for tokens, stop in beams.items() if stop == EOS} == {True}
    assert not any(EOS in tokens[1:-1] for tokens in beams)


async def test_beams_say_how_they_ended_and_what_each_token_cost() -> None:
    engine = TableEngine(3)

    found = await beam_search(engine, request(stops=(EOS, 3), num_beams=8, num_return_sequences=8))

    reasons = {beam.finish_reason for beam in found}
    assert reasons == {"stop", "length"}
    for beam in found:
        tokens = beam.token_ids.tolist()
        last = tokens[-1] if beam.finish_reason == "stop" else None
        assert beam.stop_reason == last
        assert (last in (EOS, 3)) == (beam.finish_reason == "stop")
        paid = [engine.logprobs([1, 2, *tokens[:i]])[token] for i, token in enumerate(tokens)]
        assert beam.logprobs is not None
        assert beam.logprobs == pytest.approx(np.array(paid), abs=1e-6)
        assert beam.score == pytest.approx(sum(paid) / len(tokens))
        assert beam.version_spans == ((0, len(tokens)),)


async def test_scores_fall_and_no_beam_comes_twice() -> None:
    found = await beam_search(TableEngine(5), request(num_beams=6, num_return_sequences=6, max_new_tokens=8))

    scores = [beam.score or 0.0 for beam in found]
    assert scores == sorted(scores, reverse=True)
    assert len({tuple(beam.token_ids) for beam in found}) == 6


async def test_the_best_of_the_beams_are_returned() -> None:
    all_beams = await beam_search(TableEngine(5), request(num_beams=6, num_return_sequences=6))
    two = await beam_search(TableEngine(5), request(num_beams=6, num_return_sequences=2))

    assert [beam.token_ids.tolist() for beam in two] == [beam.token_ids.tolist() for beam in all_beams[:2]]


async def test_no_stop_id_comes_before_min_new_tokens() -> None:
    found = await beam_search(TableEngine(1), request(stops=(0, 1, 2), min_new_tokens=3, max_new_tokens=6))

    assert all(not {0, 1, 2} & set(beam.token_ids[:3].tolist()) for beam in found)
    assert any(beam.finish_reason == "stop" for beam in found)


async def test_every_step_asks_with_the_adapter_for_enough_candidates() -> None:
    engine, adapter = TableEngine(0), Adapter(name="math@1", int_id=1, path=Path())

    await beam_search(engine, request(stops=(0, 3), adapter=adapter))

    assert {(k, asked) for _, k, asked in engine.asked} == {(5, adapter)}
    ids = [request_id for request_id, _, _ in engine.asked]
    assert len(set(ids)) == len(ids)


def test_a_poor_end_never_displaces_a_live_beam() -> None:
    wanted = request(num_beams=2, num_return_sequences=2, max_new_tokens=9)

    search = advance(Search(request=wanted), [answer((4, -0.1), (3, -0.2), (EOS, -0.3))])

    assert search.finished == ()
    assert [beam.tokens for beam in search.live] == [(4,), (3,)]


def test_a_good_end_is_finished_and_two_beams_stay_live() -> None:
    wanted = request(num_beams=2, num_return_sequences=2, max_new_tokens=9)

    search = advance(Search(request=wanted), [answer((4, -0.1), (EOS, -0.2), (3, -0.3))])

    assert [beam.tokens for _, beam in search.finished] == [(EOS,)]
    assert [beam.tokens for beam in search.live] == [(4,), (3,)]
    assert not search.done


@pytest.mark.parametrize(("early_stopping", "done"), [(True, True), (False, False), ("never", False)])
def test_early_stopping_true_stops_at_num_beams_ends(early_stopping: bool | str, done: bool) -> None:
    wanted = request(num_beams=2, num_return_sequences=1, max_new_tokens=9, early_stopping=early_stopping)
    search = advance(Search(request=wanted), [answer((EOS, -3.0), (4, -3.1), (3, -3.2))])
    search = advance(search, [answer((4, -0.1), (EOS, -0.2), (3, -0.3)), answer((4, -9.0), (3, -9.1), (2, -9.2))])

    assert len(search.finished) == 2
    assert search.done is done


def test_never_goes_on_while_a_longer_beam_could_win() -> None:
    def searched(early_stopping: bool | str) -> Search:
        wanted = request(
            num_beams=2, num_return_sequences=1, max_new_tokens=9, early_stopping=early_stopping, length_penalty=1.0
        )
        search = advance(Search(request=wanted), [answer((EOS, -1.0), (4, -2.0), (3, -2.1))])
        return advance(search, [answer((EOS, -0.1), (4, -0.5), (3, -0.6)), answer((4, -9.0), (3, -9.1), (2, -9.2))])

    # Worst end: -2.1 / 2. The best live beam, -2.5, ends now at -2.5 / 2 but might at -2.5 / 9.
    assert searched(False).done
    assert not searched("never").done


def test_ties_go_to_the_better_parent_and_the_lower_id() -> None:
    wanted = request(num_beams=3, max_new_tokens=9)
    search = advance(Search(request=wanted), [answer((4, -1.0), (2, -1.0), (3, -1.0))])
    assert [beam.tokens for beam in search.live] == [(2,), (3,), (4,)]

    search = advance(search, [answer((4, -1.0), (1, -1.0)), answer((1, -1.0)), answer((1, -1.0))])

    assert [beam.tokens for beam in search.live] == [(2, 1), (2, 4), (3, 1)]


@pytest.mark.parametrize("length_penalty", [-100.0, 100.0])
async def test_extreme_length_penalties_give_numbers(length_penalty: float) -> None:
    found = await beam_search(TableEngine(0), request(length_penalty=length_penalty, max_new_tokens=12))

    assert all(beam.score is not None and math.isfinite(beam.score) for beam in found)


async def test_spans_say_which_version_gave_each_token_of_each_beam() -> None:
    wanted = request(num_beams=2, num_return_sequences=2, max_new_tokens=3)
    search = advance(Search(request=wanted), [answer((4, -0.1), (3, -0.2))])
    # A swap in the middle of a step: the second beam's answer is of the new version.
    search = advance(search, [answer((4, -0.1), (1, -9.0)), answer((3, -0.1), (1, -9.0), version=7)])
    search = advance(search, [answer((2, -0.1), version=7), answer((2, -0.1), version=7, exact=False)])

    first, second = (beam for _, beam in search.finished)

    assert (first.tokens, first.spans, first.spans_exact) == ((4, 4, 2), ((0, 2), (7, 1)), True)
    assert (second.tokens, second.spans, second.spans_exact) == ((3, 3, 2), ((0, 1), (7, 2)), False)


async def test_an_error_of_the_engine_comes_out_as_it_is() -> None:
    class Refusing(TableEngine):
        async def next_tokens(
            self, request_id: str, prompt: list[int], k: int, adapter: Adapter | None, images: Expanded | None = None
        ) -> NextTokens:
            if len(prompt) > 3:
                raise DataError(ErrorCode.ENGINE_REFUSED, "config", "no")
            return await super().next_tokens(request_id, prompt, k, adapter, images)

    with pytest.raises(DataError, match="no"):
        await beam_search(Refusing(0), request())
