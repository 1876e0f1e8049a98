"""The cells of the table: each asks a running engine, and transformers or peft the same, and compares."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from rollstream import Probe, make_probe
from rollstream.schemas.wire.proofs.probe import TOLERANCES, Tolerance
from rollstream.worker.adapters.folder import AdapterFolder
from rollstream.worker.engine import Score
from rollstream.worker.engines.vllm.engine import VllmEngine
from rollstream.worker.errors import ProofFailedError
from rollstream.worker.jobs.beam_search import beam_search
from rollstream.worker.requests import Adapter, Completion, ScoreRequest
from rollstream.worker.versions.proof import proof_of
from rollstream.worker.weights.checkpoint import read_content
from tests.families.models import make_adapter, make_model, save_model
from tests.families.shapes import EOS, SECOND_EOS, SPOKEN_EOS
from tests.support.engine.engine_requests import ON_GPU, generate, request

PROMPTS = [[5, 6, 7, 8], [(i * 37) % 500 + 8 for i in range(60)]]
ROWS = [[(i * step) % 500 + 8 for i in range(100)] for step in (37, 41, 43)]
CHAT = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}, {"role": "user", "content": "why"}]
CHAT_TEXT = "<user>2+2?<assistant>4<user>why<assistant>"
_FEW = 8
"""The mean of fewer numbers is not held to that of many."""
_CLOSE = Tolerance(mean=1e-4, largest=1e-3)
_ON_GPU = Tolerance(mean=2e-3, largest=5e-2)  # float32 is multiplied with fewer digits there


class WrongError(Exception):
    """Raised when an engine says something else than transformers."""


@dataclass
class Trial:
    """A family's model in transformers, and the engine that serves it."""

    family: str
    model: Any
    folder: Path
    engine: VllmEngine
    dtype: str
    versions: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def tolerance(self) -> Tolerance:
        """How far off the engine may be."""
        if self.dtype != "float32":
            return TOLERANCES[self.dtype]
        return _ON_GPU if ON_GPU else _CLOSE

    @property
    def is_exact(self) -> bool:
        """Whether greedy tokens and beams must be the same: rounding moves no choice."""
        return self.dtype == "float32" and not ON_GPU

    def compare(self, found: NDArray[Any] | None, known: NDArray[Any], what: str) -> float:
        """The largest difference. Raises `WrongError` for more than the tolerance, and for NaN."""
        if found is None or found.shape != known.shape:
            raise WrongError(f"{what}: the engine gave {None if found is None else found.shape}, not {known.shape}")
        off = np.abs(found.astype(np.float64) - known)
        mean, largest = float(off.mean()), float(off.max())
        if not ((mean <= self.tolerance.mean or off.size < _FEW) and largest <= self.tolerance.largest):
            raise WrongError(f"{what}: mean {mean:.3g}, largest {largest:.3g} nats off")
        return largest


def known_logprobs(model: Any, prompt: list[int], tokens: Sequence[int], temperature: float = 1.0) -> NDArray[Any]:
    """What transformers gives the tokens."""
    row = torch.tensor([[*prompt, *tokens]])
    with torch.no_grad():
        logits = model(row).logits[0, len(prompt) - 1 : -1].float() / temperature
    found: NDArray[Any] = logits.log_softmax(-1).gather(-1, row[0, len(prompt) :, None])[:, 0].double().numpy()
    return found


async def sampled(trial: Trial) -> float:
    """Log-probs of what the engine samples at a temperature, of a short prompt and one longer than a window."""
    fields = {"max_new_tokens": 40, "num_return_sequences": 4, "temperature": 0.8, "ignore_eos": True}
    asked = [generate(trial.engine, prompt, logprobs="processed", **fields) for prompt in PROMPTS]
    answers = await asyncio.gather(*asked)
    return max(
        trial.compare(one.logprobs, known_logprobs(trial.model, prompt, one.token_ids.tolist(), 0.8), "sampled")
        for prompt, answer in zip(PROMPTS, answers, strict=True)
        for one in answer
    )


async def scores(trial: Trial, model: Any = None, adapter: Adapter | None = None) -> float:
    """Log-probs of given rows."""
    answers = await asyncio.gather(*(trial.engine.score(_row(row, adapter)) for row in ROWS))
    return max(
        trial.compare(answer.logprobs, known_logprobs(model or trial.model, row[:1], row[1:]), "scores")
        for row, answer in zip(ROWS, answers, strict=True)
    )


async def lora(trial: Trial) -> float:
    """An adapter that peft made: sampled with it, scored with it, and no trace of it in what is asked without."""
    folder = trial.folder / "adapter"
    adapted = await asyncio.to_thread(make_adapter, trial.model, folder)
    try:
        found = AdapterFolder(root=None, max_rank=16, model=trial.folder / "boot").admit("peft@1", folder)
        await trial.engine.load_adapter(found)
        with_it, without = await asyncio.gather(
            *(generate(trial.engine, adapter=one, max_new_tokens=24, ignore_eos=True) for one in (found, None))
        )
        off = max(_sampled_with(trial, adapted, with_it), await scores(trial, adapted, found))
        with adapted.disable_adapter():
            off = max(off, _sampled_with(trial, adapted, without), await scores(trial, adapted))
            bare = known_logprobs(adapted, PROMPTS[0], with_it[0].token_ids.tolist())
        await trial.engine.unload_adapter(found)
    finally:
        trial.model = adapted.unload()
    if np.abs(bare - known_or_none(with_it[0])).max() < 10 * trial.tolerance.mean:
        raise WrongError("LoRA: the adapter changes nothing")
    return off


def known_or_none(one: Completion) -> NDArray[Any]:
    """The completion's own log-probs."""
    if one.logprobs is None:
        raise WrongError("the engine gave no log-probs")
    return one.logprobs


async def beams(trial: Trial) -> float:
    """Three of four beams, their scores and their log-probs, with all EOS ids at work."""
    stops = (EOS, SECOND_EOS)
    fields: dict[str, Any] = {"num_beams": 4, "num_return_sequences": 3}
    asked = request(trial.engine, PROMPTS[1], eos_token_id=stops, max_new_tokens=12, **fields)
    found = await beam_search(trial.engine, asked)
    output = await asyncio.to_thread(_generate, trial.model, PROMPTS[1], 12, eos_token_id=list(stops), **fields)
    off = 0.0
    for beam, score, tokens in zip(found, output.sequences_scores.tolist(), output.sequences.tolist(), strict=True):
        mine = beam.token_ids.tolist()
        if trial.is_exact and mine != tokens[len(PROMPTS[1]) :][: len(mine)]:
            raise WrongError(f"beams: the engine found {mine}, transformers {tokens[len(PROMPTS[1]) :]}")
        off = max(off, trial.compare(beam.logprobs, known_logprobs(trial.model, PROMPTS[1], mine), "beams"))
        off = max(off, trial.compare(np.array([beam.score]), np.array([score]), "scores of beams"))
    return off


async def eos_and_chat(trial: Trial) -> float:
    """The ids of generation_config.json and the tokenizer's EOS end a completion; a chat has the tokenizer's ids."""
    info = trial.engine.info
    if (info.eos_token_ids, info.spoken_eos_ids) != ((EOS, SECOND_EOS), (SPOKEN_EOS,)):
        raise WrongError(f"EOS: the worker found {info.eos_token_ids} and {info.spoken_eos_ids}")
    tokenizer: Any = AutoTokenizer.from_pretrained(trial.folder / "boot")
    chat: dict[str, Any] = {"add_generation_prompt": True, "return_dict": False}
    prompt = [int(token) for token in tokenizer.apply_chat_template(CHAT, **chat)]
    plain = Tokenizer.from_file(str(trial.folder / "boot" / "tokenizer.json")).encode(CHAT_TEXT).ids
    if not prompt == plain == list(trial.engine._llm.tokenizer.apply_chat_template(CHAT, **chat)):
        raise WrongError(f"chat: transformers gives {prompt}, its text is {plain}")
    for token in (EOS, SECOND_EOS, SPOKEN_EOS, 8):
        (one,) = await generate(trial.engine, prompt, max_new_tokens=3, allowed_token_ids=[token])
        expected = ("length", 3) if token == 8 else ("stop", 1)
        if (one.finish_reason, len(one.token_ids)) != expected:
            raise WrongError(f"EOS: {len(one.token_ids)} times {token}, ended by {one.finish_reason}")
    return await _greedy(trial, prompt)


async def swap(trial: Trial) -> float:
    """Live swaps to other weights and back, each proven by its probe; weights of another probe are turned away."""
    old, boot = trial.model, trial.folder / "boot"
    new = await asyncio.to_thread(make_model, trial.family, 1)
    folder = await asyncio.to_thread(save_model, new, trial.folder / "new")
    probes = [await asyncio.to_thread(make_probe, model, ROWS) for model in (old, new)]
    off = 0.0
    for model, place, probe in ((new, folder, probes[1]), (old, boot, probes[0]), (new, folder, probes[1])):
        await _swap(trial, place, probe)
        off = max(off, await scores(trial, model))
    try:
        await _swap(trial, boot, probes[1])
    except ProofFailedError:
        off = max(off, await scores(trial, new))
    else:
        raise WrongError("swap: a probe passed on the weights before")
    await _swap(trial, boot, probes[0])
    return max(off, await sampled(trial))


CELLS: dict[str, Callable[[Trial], Awaitable[float]]] = {
    "sampled": sampled, "scores": scores, "LoRA": lora, "beams": beams, "EOS, chat": eos_and_chat, "swap": swap,
}  # fmt: skip


async def _swap(trial: Trial, folder: Path, probe: Probe) -> None:
    version = next(trial.versions)

    async def prove(score: Score) -> None:
        await proof_of(probe, version, trial.engine.info, score)

    content = await asyncio.to_thread(read_content, folder)
    await trial.engine.load_checkpoint(version, folder, "keep", content, prove)


async def _greedy(trial: Trial, prompt: list[int]) -> float:
    (one,) = await generate(trial.engine, prompt, max_new_tokens=24, temperature=0)
    mine = one.token_ids.tolist()
    if trial.is_exact:
        ends = [EOS, SECOND_EOS, SPOKEN_EOS]
        output = await asyncio.to_thread(_generate, trial.model, prompt, 24, eos_token_id=ends)
        if mine != output.sequences[0, len(prompt) :].tolist():
            raise WrongError(f"EOS: greedy, the engine gave {mine}, not {output.sequences[0, len(prompt) :].tolist()}")
    return trial.compare(one.logprobs, known_logprobs(trial.model, prompt, mine), "greedy")


def _generate(model: Any, prompt: list[int], most: int, **fields: Any) -> Any:
    """Transformers' own."""
    with torch.no_grad():
        return model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=most,
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=True,
            pad_token_id=0,
            **fields,
        )


def _sampled_with(trial: Trial, model: Any, found: list[Completion]) -> float:
    tokens = found[0].token_ids.tolist()
    return trial.compare(found[0].logprobs, known_logprobs(model, PROMPTS[0], tokens), "LoRA")


def _row(row: list[int], adapter: Adapter | None) -> ScoreRequest:
    asked = f"row-{row[1]}"
    return ScoreRequest(request_id=asked, token_ids=row, first=1, top_logprobs=0, adapter=adapter)
