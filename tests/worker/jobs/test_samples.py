"""The samples of a group run in one request or each in one of its own, and go on from what they had."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rollstream.schemas import ErrorCode, GenerationConfig
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engines.stub import StubEngine
from rollstream.worker.errors import DataError
from rollstream.worker.jobs.make_answers import Sampled
from rollstream.worker.jobs.samples import Samples, SoFar
from rollstream.worker.requests import Completion, GenerateRequest, Partial
from tests.support.engine.stub_rule import breaks_of, drawn
from tests.support.worker_process import until_true

VOCAB, SEED, PROMPT = 1000, 40, [5, 6, 7]


class Engine(StubEngine):
    """Notes what it was asked for; requests for the samples of `late` end when the test says."""

    def __init__(self, *, tokens_per_s: float = 0, late: frozenset[str] = frozenset()) -> None:
        super().__init__(
            WorkerSettings(policy="p", engine="stub", stub_vocab_size=VOCAB, stub_tokens_per_s=tokens_per_s)
        )
        self.asked: list[GenerateRequest] = []
        self.held = asyncio.Event()
        self._late = late

    async def generate(self, request: GenerateRequest) -> list[Completion]:
        self.asked.append(request)
        if request.request_id in self._late:
            await self.held.wait()
        return await super().generate(request)

    def abort_by_swap(self) -> None:
        self._version += 1
        self._aborts += 1
        self._swapped.set()
        self._swapped = asyncio.Event()


def whole(**options: Any) -> GenerateRequest:
    config = GenerationConfig(**{"max_new_tokens": 20, "num_return_sequences": 3, **options})
    return GenerateRequest(
        request_id="r", prompt=PROMPT, config=config, stop_token_ids=(), seed=SEED, adapter=None, goes_on=True
    )


def kept(sample: int, length: int, *, ended: bool = False) -> SoFar:
    tokens = drawn(PROMPT, SEED + sample, length, vocab_size=VOCAB)
    completion = Completion(
        token_ids=tokens,
        logprobs=np.zeros(length, np.float32),
        finish_reason="length" if ended else "abort",
        stop_reason=None,
        version_spans=((0, length),),
    )
    return SoFar(sample=sample, completion=completion, ended=ended)


def breaks(sampled: Sampled) -> list[list[int] | None]:
    """Where each sample was gone on from; None where its tokens are none of the stub's."""
    of_each = zip(sampled.samples or range(3), sampled.completions, strict=True)
    return [breaks_of(PROMPT, SEED + n, one.token_ids.tolist(), vocab_size=VOCAB) for n, one in of_each]


async def test_a_fresh_group_is_one_request_with_all_its_samples() -> None:
    engine = Engine()

    sampled = await Samples(engine=engine, request=whole()).run()

    assert engine.asked == [whole()]
    assert (sampled.samples, sampled.resumed_at, sampled.cut_lengths) == ((), (), None)
    assert [
        breaks_of(PROMPT, SEED + n, c.token_ids.tolist(), vocab_size=VOCAB) for n, c in enumerate(sampled.completions)
    ] == [[]] * 3


async def test_a_share_of_the_samples_has_the_seeds_that_it_has_in_the_whole() -> None:
    both = await Samples(engine=Engine(), request=whole()).run()

    share = await Samples(engine=Engine(), request=whole(), numbers=range(1, 3)).run()

    assert share.samples == (1, 2)
    assert [c.token_ids.tolist() for c in share.completions] == [c.token_ids.tolist() for c in both.completions[1:]]


async def test_what_was_kept_is_not_sampled_again() -> None:
    engine = Engine()
    samples = Samples(engine=engine, request=whole(), kept={0: kept(0, 20, ended=True), 1: kept(1, 8)})

    sampled = await samples.run()

    assert [(one.request_id, len(one.prompt), one.config.max_new_tokens) for one in engine.asked] == [
        ("r/1", len(PROMPT) + 8, 12),
        ("r/2", len(PROMPT), 20),
    ]
    assert sampled.resumed_at == (20, 8, 0)
    assert (samples.resumed, samples.sampled_here) == (28, 12 + 20)
    found = [
        breaks_of(PROMPT, SEED + n, c.token_ids.tolist(), vocab_size=VOCAB) for n, c in enumerate(sampled.completions)
    ]
    assert found == [[], [8], []]
    assert {c.version_spans for c in sampled.completions} == {((0, 20),)}


async def test_samples_that_had_all_ended_need_no_engine() -> None:
    engine = Engine()

    sampled = await Samples(engine=engine, request=whole(), kept={n: kept(n, 20, ended=True) for n in range(3)}).run()

    assert engine.asked == []
    assert [len(c.token_ids) for c in sampled.completions] == [20, 20, 20]


@pytest.mark.parametrize(
    ("stop", "length", "resumed_at"),
    [(None, 20, 19), (None, 21, 0), ("within", 8, 0)],
    ids=["at the limit", "beyond the limit", "after a token that ends it"],
)
async def test_a_sample_goes_on_only_from_where_a_token_may_follow(
    stop: str | None, length: int, resumed_at: int
) -> None:
    had = kept(0, length)
    request = whole(num_return_sequences=1)
    if stop:
        request = GenerateRequest(
            request_id="r", prompt=PROMPT, config=request.config, stop_token_ids=(int(had.completion.token_ids[3]),),
            seed=SEED, adapter=None,
        )  # fmt: skip

    sampled = await Samples(engine=Engine(), request=request, kept={0: had}).run()

    assert sampled.resumed_at == ((resumed_at,) if resumed_at else ())
    assert len(sampled.completions[0].token_ids) == (4 if stop else 20)


async def test_what_would_not_be_continued_exactly_begins_again_and_what_has_ended_stays() -> None:
    had = {0: kept(0, 8), 1: kept(1, 20, ended=True)}

    sampled = await Samples(engine=Engine(), request=whole(frequency_penalty=0.5), kept=had).run()

    assert sampled.resumed_at == (0, 20, 0)


async def test_an_aborting_swap_loses_no_token_of_a_group_that_goes_on() -> None:
    engine = Engine(tokens_per_s=200)
    samples = Samples(engine=engine, request=whole())
    aborts: list[int] = []
    samples.on_abort = lambda: aborts.append(1)
    running = asyncio.create_task(samples.run())
    await until_true(lambda: len(samples.so_far()) == 3)

    engine.abort_by_swap()
    sampled = await running

    assert aborts
    for number, completion in enumerate(sampled.completions):
        (old, before), (new, after) = completion.version_spans
        tokens = completion.token_ids.tolist()
        assert (old, new, before + after) == (0, 1, 20)
        assert tokens[:before] == drawn(PROMPT, SEED + number, before, vocab_size=VOCAB).tolist()
        last = engine.asked[1 + number]
        assert tokens[before:] == drawn(last.prompt, last.seed or 0, after, vocab_size=VOCAB, version=1).tolist()
    assert sampled.resumed_at == (), "no earlier delivery sampled any of it"
    assert samples.sampled_here == 60


async def test_the_first_k_to_end_are_the_answer_and_the_others_are_cut() -> None:
    engine = Engine(late=frozenset({"r/0"}))
    samples = Samples(engine=engine, request=whole(), first_k=2)

    sampled = await samples.run()

    assert sampled.samples == (1, 2)
    assert sampled.cut_lengths == (0,)
    assert [c.token_ids.tolist() for c in sampled.completions] == [
        drawn(PROMPT, SEED + n, 20, vocab_size=VOCAB).tolist() for n in (1, 2)
    ]


async def test_what_is_cut_leaves_the_engine_and_counts_at_least_as_what_is_kept() -> None:
    engine = Engine(tokens_per_s=200)
    samples = Samples(engine=engine, request=whole(), first_k=2, kept={n: kept(n, 19) for n in (0, 2)})

    sampled = await samples.run()

    assert sampled.samples == (0, 2)
    assert sampled.resumed_at == (19, 19)
    assert sampled.cut_lengths in ((0,), (20,))
    assert engine._places.running == 0, "the others run on"


class Holding(Engine):
    """Tells of the first `told` tokens of a running completion, until it is asked to hand over the others."""

    def __init__(self, *, told: int, hands_over: bool) -> None:
        super().__init__(late=frozenset({"r/2"}))
        self.told, self._hands_over = told, hands_over

    def partials(self, request_id: str) -> list[Partial]:
        had = kept(int(request_id[-1]), min(self.told, 19)).completion
        return [Partial(sample=0, completion=had, ended=False)] if self.told else []

    async def release(self) -> None:
        if self._hands_over:
            self.told = 19


@pytest.mark.parametrize(
    ("told", "hands_over", "length"),
    [(0, True, 19), (1, True, 19), (1, False, 12), (12, False, 12), (0, False, 0)],
    ids=["asked", "asked for more", "at least the kept one's", "as it was", "of nothing told"],
)
async def test_a_cut_sample_is_at_least_as_long_as_those_that_ended_while_it_ran(
    told: int, hands_over: bool, length: int
) -> None:
    ended = {0: kept(0, 12, ended=True), 1: kept(1, 3, ended=True)}
    last = int(drawn(PROMPT, SEED + 3, 9, vocab_size=VOCAB)[8])
    request = replace(whole(num_return_sequences=4), stop_token_ids=(last,))

    sampled = await Samples(
        engine=Holding(told=told, hands_over=hands_over), request=request, first_k=3, kept=ended
    ).run()

    assert [len(one.token_ids) for one in sampled.completions] == [12, 3, 9]
    assert sampled.cut_lengths == (length,)


async def test_kept_samples_that_had_ended_are_among_the_first_k() -> None:
    engine = Engine()
    ended = {n: kept(n, 20, ended=True) for n in (0, 2)}

    sampled = await Samples(engine=engine, request=whole(), first_k=2, kept=ended).run()

    assert (sampled.samples, sampled.cut_lengths, engine.asked) == ((0, 2), (0,), [])


async def test_an_error_of_one_sample_is_the_group_s_and_ends_the_others() -> None:
    class Refusing(Engine):
        async def generate(self, request: GenerateRequest) -> list[Completion]:
            if request.request_id == "r/1":
                raise DataError(ErrorCode.ENGINE_REFUSED, "config", "no")
            return await super().generate(request)

    engine = Refusing(tokens_per_s=1)

    with pytest.raises(DataError, match="no"):
        await Samples(engine=engine, request=whole(), first_k=3).run()

    assert engine._places.running == 0


@pytest.mark.parametrize("first_k", [None, 2], ids=["in one request", "each in its own"])
async def test_a_cancelled_group_aborts_all_its_requests(first_k: int | None) -> None:
    engine = Engine(tokens_per_s=1)
    running = asyncio.create_task(Samples(engine=engine, request=whole(), first_k=first_k).run())
    await until_true(lambda: engine._places.running == 3)

    running.cancel()
    await asyncio.wait([running])

    assert running.cancelled()
    assert engine._places.running == 0


async def test_what_a_group_has_so_far_is_the_beginning_of_its_answer() -> None:
    engine = Engine(tokens_per_s=200)
    had = {0: kept(0, 60, ended=True), 1: kept(1, 8)}
    samples = Samples(engine=engine, request=whole(max_new_tokens=60), kept=had)
    running = asyncio.create_task(samples.run())
    await until_true(lambda: [len(one.completion.token_ids) > 9 for one in samples.so_far()] == [True] * 3)

    found = samples.so_far()
    sampled = await running

    assert [(one.sample, one.ended, one.resumed_at) for one in found] == [(0, True, 60), (1, False, 8), (2, False, 0)]
    for one, completion in zip(found, sampled.completions, strict=True):
        length = len(one.completion.token_ids)
        assert one.completion.token_ids.tolist() == completion.token_ids[:length].tolist()
        assert one.completion.logprobs is not None
        assert completion.logprobs is not None
        assert one.completion.logprobs.tolist() == completion.logprobs[:length].tolist()


async def test_a_sample_at_its_limit_that_has_not_ended_yet_is_told_without_the_token_that_may_be_its_end() -> None:
    class Slow(Engine):
        def partials(self, request_id: str) -> list[Partial]:
            (one,) = Samples(engine=self, request=whole(), kept={0: kept(0, 20, ended=True)}).so_far()
            return [Partial(sample=0, completion=one.completion, ended=False)] if request_id == "r" else []

    samples = Samples(engine=(engine := Slow(tokens_per_s=1)), request=whole())
    running = asyncio.create_task(samples.run())
    await until_true(lambda: engine._places.running == 3)

    assert [(len(one.completion.token_ids), one.ended) for one in samples.so_far()] == [(19, False)]
    running.cancel()
    await asyncio.wait([running])


async def test_what_the_engine_would_refuse_is_not_told() -> None:
    class Refusing(Engine):
        def partials(self, _request_id: str) -> list[Partial]:
            raise DataError(ErrorCode.ENGINE_REFUSED, "config", "no")

    engine = Refusing(tokens_per_s=200)
    samples = Samples(engine=engine, request=whole())
    running = asyncio.create_task(samples.run())
    await until_true(lambda: engine._places.running == 3)

    assert samples.so_far() == []
    await running


async def test_a_policy_that_is_an_adapter_names_the_version_of_each_piece() -> None:
    sampled = await Samples(engine=Engine(), request=whole(), kept={1: kept(1, 8)}, version=6).run()

    assert [c.version_spans for c in sampled.completions] == [((6, 20),), ((0, 8), (6, 12)), ((6, 20),)]
