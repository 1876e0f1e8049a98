"""A tiny model that was taught, in half a minute, to call a calculator: what `agent` lets its workers serve.

Everything is made here, from a seed: a tokenizer of 512 ids, a chat template that knows tools (ChatML, with calls in
`<tool_call>`), and a Qwen2 of two layers that has read made-up conversations. It calls the tool nearly always, and is
often wrong about the numbers, as befits its size: something is left to learn.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from rollstream.producer.demo.tiny_model import write_model

VOCABULARY, POSITIONS = 512, 2048
PAD, START, END = "<pad>", "<|im_start|>", "<|im_end|>"
CALL, CALL_END = "<tool_call>", "</tool_call>"
QUESTIONS = 5
"""Questions of one conversation; each takes two turns of the model, the call and the answer."""

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Adds two numbers.",
            "parameters": {
                "type": "object",
                "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
                "required": ["a", "b"],
            },
        },
    }
]
TEMPLATE = """\
{%- if tools %}<|im_start|>system
You may call <tools>{% for tool in tools %}{{ tool | tojson }}{% endfor %}</tools><|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{% if message.content %}{{ message.content }}{% endif %}
{%- for call in message.tool_calls or [] %}<tool_call>{"name": "{{ call.function.name }}", "arguments": \
{{ call.function.arguments if call.function.arguments is string else call.function.arguments | tojson }}}</tool_call>\
{% endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

_ROWS, _RATE = 6, 5e-3


def question(a: int, b: int) -> str:
    """What the user asks."""
    return f"{a}+{b}?"


def conversation(numbers: random.Random, questions: int = QUESTIONS) -> list[dict[str, Any]]:
    """A made-up conversation in which the model calls the tool for each question, and says what it was told."""
    messages: list[dict[str, Any]] = []
    for _ in range(questions):
        a, b = numbers.randrange(10), numbers.randrange(10)
        call = {"name": "add", "arguments": {"a": a, "b": b}}
        messages += [
            {"role": "user", "content": question(a, b)},
            {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": call}]},
            {"role": "tool", "content": str(a + b)},
            {"role": "assistant", "content": str(a + b)},
        ]
    return messages


def write_agent_model(folder: Path, *, seed: int, lessons: int) -> Path:
    """Write tokenizer and model, which has had so many lessons. Returns `folder`."""
    write_model(folder, seed=seed, vocab_size=VOCABULARY, max_positions=POSITIONS, eos_token_ids=(2,), tokenizer=False)
    _write_tokenizer(folder, seed)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    _teach(model, AutoTokenizer.from_pretrained(folder), seed=seed, steps=lessons)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _write_tokenizer(folder: Path, seed: int) -> None:
    """Bytes, the marks of the template, and pairs that the made-up conversations have often; each digit is an id."""
    tokenizer = Tokenizer(models.BPE())
    split = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 2,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(seed), trainer)
    tokenizer.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in (CALL, CALL_END)])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": PAD, "bos_token": START, "eos_token": END}
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": TEMPLATE}, indent=2))


def _texts(seed: int) -> Iterator[str]:
    """What the pairs are counted in."""
    numbers = random.Random(seed)
    yield json.dumps(TOOLS)
    for _ in range(100):
        yield from (f"{json.dumps(one.get('tool_calls'))} user assistant tool system" for one in conversation(numbers))


def _teach(model: Any, tokenizer: Any, *, seed: int, steps: int) -> None:
    """Next tokens of made-up conversations, of the model's own turns above all."""
    numbers, optimiser = random.Random(seed), torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=_RATE, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        rows = [_lesson(tokenizer, numbers) for _ in range(_ROWS)]
        width = max(len(ids) for ids, _ in rows)
        ids = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids, _ in rows])
        weights = torch.tensor([[*own, *[0.0] * (width - len(own))] for _, own in rows])
        logits = model(ids).logits[:, :-1]
        losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        loss = (losses * weights[:, 1:]).sum() / weights[:, 1:].sum()
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()


def _lesson(tokenizer: Any, numbers: random.Random) -> tuple[list[int], list[float]]:
    """The ids of one conversation, and how much each counts: the model's own turns whole, the rest little."""
    messages = conversation(numbers, numbers.randint(1, QUESTIONS))
    text = tokenizer.apply_chat_template(messages, tools=TOOLS, tokenize=False)
    ids: list[int] = []
    counts: list[float] = []
    mark = f"{START}assistant\n"
    for number, part in enumerate(text.split(mark)):
        own, end, rest = part.partition(END) if number else ("", "", part)
        for piece, weight in ((mark if number else "", 0.02), (own + end, 1.0), (rest, 0.02)):
            encoded = tokenizer.encode(piece, add_special_tokens=False) if piece else []
            ids += encoded
            counts += [weight] * len(encoded)
    return ids, counts
