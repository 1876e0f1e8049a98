"""An engine whose routing is not that of its tokens is found out at its start, by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rollstream.schemas import ErrorCode
from rollstream.schemas.wire.routing import RoutingArray, RoutingShape
from rollstream.worker.engine import ROUTING_NOT_ASKED, EngineInfo
from rollstream.worker.engines.vllm.calls import Calls
from rollstream.worker.engines.vllm.routing.offer import with_routing
from rollstream.worker.engines.vllm.routing.proof import why_unproven
from rollstream.worker.errors import DataError
from rollstream.worker.requests import Completion, GenerateRequest

SHAPE = RoutingShape(layers=3, k=2, experts=8, dense=(1,))
INFO = EngineInfo(
    vocab_size=100, max_model_len=512, max_num_seqs=8, step_tokens=64, eos_token_ids=(2,), max_logprobs=8,
    logprobs_flavour="processed", has_tokenizer=False, dtype="float32", features=frozenset({"top_logprobs"}),
)  # fmt: skip


def routed(text: list[int]) -> RoutingArray:
    """Each token goes where its id and its layer say."""
    first = np.array(text)[:, None] * 5 + np.arange(SHAPE.layers)
    found: Any = ((first[..., None] + 3 * np.arange(SHAPE.k)) % SHAPE.experts).astype(SHAPE.dtype)
    found[:, SHAPE.dense] = 0
    return found  # type: ignore[no-any-return] # numpy cannot know


class Engine:
    """Samples random ids, and tells of their routing what `spoil` makes of it."""

    def __init__(self, spoil: Callable[[RoutingArray, int], Any] = lambda routing, _: routing) -> None:
        self._spoil = spoil
        self._random = np.random.default_rng(1)
        self.forgotten = 0

    async def generate(self, request: GenerateRequest) -> list[Completion]:
        assert 1 <= len(request.prompt) <= INFO.max_model_len - request.config.max_new_tokens
        found = []
        for _ in range(request.config.num_return_sequences):
            ids = self._random.integers(0, INFO.vocab_size, request.config.max_new_tokens)
            text = [*request.prompt, *ids.tolist()][:-1]
            found.append(
                Completion(
                    token_ids=ids.astype(np.int32),
                    logprobs=None,
                    finish_reason="length",
                    stop_reason=None,
                    version_spans=((0, len(ids)),),
                    routed_experts=self._spoil(routed(text), len(request.prompt)),
                )
            )
        return found

    async def forget(self) -> None:
        self.forgotten += 1


def shifted(routing: RoutingArray, prompt: int) -> RoutingArray:
    """Sampled rows are those of the token before."""
    return np.concatenate([routing[:prompt], np.roll(routing, 1, 0)[prompt:]]) if prompt < len(routing) else routing


def unfilled(routing: RoutingArray, prompt: int) -> RoutingArray:
    spoilt = routing.copy()
    spoilt[prompt:] = 0
    return spoilt


def constant(routing: RoutingArray, _: int) -> RoutingArray:
    spoilt = routing.copy()
    spoilt[:] = routing[:1]
    return spoilt


SPOILT: dict[str, tuple[Callable[[RoutingArray, int], Any], str]] = {
    "zeros, as where a kernel asks no router": (lambda routing, _: routing * 0, "names expert 0 twice"),
    "zeros where it samples": (unfilled, "names expert 0 twice"),
    "a row too few": (lambda routing, _: routing[1:], "of shape"),
    "other layers": (lambda routing, _: routing[:, 1:], "of shape"),
    "ids beyond the experts": (lambda routing, _: routing + 8, "expert .* of 8"),
    "rows of other tokens": (shifted, "went to other experts than the same tokens in a prompt"),
    "the same for all": (constant, "all tokens of a text went to the same experts"),
    "nothing": (lambda *_: None, "vLLM gave none"),
}


@pytest.mark.parametrize(("spoil", "said"), SPOILT.values(), ids=SPOILT)
async def test_what_is_not_the_routing_of_its_tokens_is_found_out(spoil: Any, said: str) -> None:
    engine = Engine(spoil)

    why = await why_unproven(engine.generate, engine.forget, SHAPE, INFO)

    assert re.search(said, why), why


async def test_routing_of_its_tokens_passes_and_prompts_are_computed_twice() -> None:
    engine = Engine()

    assert await why_unproven(engine.generate, engine.forget, SHAPE, INFO) == ""
    assert engine.forgotten == 1


async def test_an_engine_that_refuses_the_request_is_no_proof() -> None:
    async def refuse(_: GenerateRequest) -> list[Completion]:
        raise DataError(ErrorCode.ENGINE_REFUSED, "config", "vLLM refuses the request: no")

    assert await why_unproven(refuse, Engine().forget, SHAPE, INFO) == "vLLM refuses the request: no"


def llm(*, on: bool, layers: list[int], why: str = "") -> Any:
    async def rpc(name: str) -> Any:
        assert name == "rollstream_routing"
        return [(layers, why)]

    async def reset_prefix_cache() -> bool:
        return True

    text = SimpleNamespace(num_hidden_layers=3, num_experts=8, num_experts_per_tok=2)
    model = SimpleNamespace(enable_return_routed_experts=on, hf_text_config=text)
    config = SimpleNamespace(model_config=model)
    return SimpleNamespace(vllm_config=config, collective_rpc=rpc, reset_prefix_cache=reset_prefix_cache)


async def offered(engine: Engine, told: Any, *, asked: bool = True, on_cpu: bool = False) -> EngineInfo:
    calls = Calls(dead=RuntimeError, step_limit_s=5, load_limit_s=5)
    return await with_routing(INFO, asked=asked, on_cpu=on_cpu, llm=told, calls=calls, generate=engine.generate)


async def test_an_engine_that_proves_it_offers_it_with_its_shape() -> None:
    info = await offered(Engine(), llm(on=True, layers=[0, 2]))

    assert info.features == {"top_logprobs", "routed_experts"}
    assert info.routing == SHAPE
    assert info.missing == ()


NOT_OFFERED: dict[str, tuple[Engine, Any, dict[str, bool], str]] = {
    "not asked": (Engine(), None, {"asked": False}, ROUTING_NOT_ASKED),
    "a CPU": (Engine(), None, {"on_cpu": True}, "vLLM gives no routing on a CPU"),
    "no mixture": (Engine(), llm(on=False, layers=[]), {}, "the model's config names no experts"),
    "a kernel that chooses": (
        Engine(),
        llm(on=True, layers=[0, 2], why="layer 0 runs in a kernel"),
        {},
        "layer 0 runs",
    ),
    "layers beyond the config's": (Engine(), llm(on=True, layers=[3]), {}, "does not fit its 1 layers"),
    "no proof": (Engine(unfilled), llm(on=True, layers=[0, 2]), {}, "did not see what its kernels chose"),
}


@pytest.mark.parametrize(("engine", "told", "how", "said"), NOT_OFFERED.values(), ids=NOT_OFFERED)
async def test_an_engine_that_cannot_says_why(engine: Engine, told: Any, how: dict[str, bool], said: str) -> None:
    info = await offered(engine, told, **how)

    assert info.features == INFO.features
    assert said in dict(info.missing)["routed_experts"]
