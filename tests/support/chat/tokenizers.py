"""Small tokenizers of the kinds that models have, each with a chat template as one of them has it, written by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

TEMPLATES = Path(__file__).parent / "templates"
_CORPUS = [
    "the weather in the city is what the user and the assistant said; then the tool answered the assistant",
    '{"name": "weather", "arguments": {"city": "Paris"}} {"name": "add", "parameters": {"a": 1, "b": 2}}',
    "\n\n \n  user\nassistant\nsystem\ntool\n<think>\n</think>\n\nhello there, how are you? I am fine. 12 degrees",
]


class Family(NamedTuple):
    """A tokenizer: `kind` is how it parts text, `tokens` its special ones (with a space behind it: one that swallows
    spaces), `plain_tokens` added ones that are not special; generation_config.json names `eos` and `eos_more`.
    """

    template: str
    kind: str
    tokens: tuple[str, ...]
    eos: str
    bos: str | None = None
    eos_more: tuple[str, ...] = ()
    plain_tokens: tuple[str, ...] = ()


_CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_CALLS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
_LLAMA = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>",
    "<|python_tag|>",
)  # fmt: skip
_GEMMA = ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>")
_MISTRAL = (
    "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
)  # fmt: skip
_DEEPSEEK = tuple(
    f"<\uff5c{name}\uff5c>"
    for name in (
        "begin▁of▁sentence",
        "end▁of▁sentence",
        "User",
        "Assistant",
        "tool▁calls▁begin",
        "tool▁calls▁end",
        "tool▁call▁begin",
        "tool▁call▁end",
        "tool▁sep",
        "tool▁outputs▁begin",
        "tool▁outputs▁end",
        "tool▁output▁begin",
        "tool▁output▁end",
    )
)  # fmt: skip
_HARMONY = ("<|endoftext|>", "<|return|>", "<|call|>", "<|start|>", "<|end|>", "<|message|>", "<|channel|>")
FAMILIES = {
    "chatml": Family("chatml", "bytes", _CHATML, "<|im_end|>", eos_more=("<|endoftext|>",)),
    "qwen2.5": Family("qwen25", "bytes", _CHATML, "<|im_end|>", eos_more=("<|endoftext|>",), plain_tokens=_CALLS[:2]),
    "qwen3": Family("qwen3", "bytes", _CHATML, "<|im_end|>", eos_more=("<|endoftext|>",), plain_tokens=_CALLS),
    "llama3.1": Family(
        "llama31", "bytes", _LLAMA, "<|eot_id|>", bos=_LLAMA[0], eos_more=("<|end_of_text|>", "<|eom_id|>")
    ),
    "llama2": Family("llama2", "pieces with a prefix", ("<s>", "</s>"), "</s>", bos="<s>"),
    "gemma2": Family("gemma2", "pieces", _GEMMA, "<eos>", bos="<bos>", eos_more=("<end_of_turn>",)),
    "gemma3": Family("gemma3", "pieces", _GEMMA, "<eos>", bos="<bos>", eos_more=("<end_of_turn>",)),
    "mistral": Family("mistral3", "pieces with a prefix", _MISTRAL, "</s>", bos="<s>"),
    "phi3": Family(
        "phi3", "pieces with a prefix", ("<|endoftext|>", "<|system|> ", "<|user|> ", "<|assistant|> ", "<|end|> "),
        "<|endoftext|>", bos="<s>", eos_more=("<|end|>",),
    ),
    "deepseek-r1": Family(
        "deepseek_r1", "bytes", _DEEPSEEK, _DEEPSEEK[1], bos=_DEEPSEEK[0], plain_tokens=("<think>", "</think>")
    ),
    "olmo2": Family("olmo2", "bytes", ("<|endoftext|>", "<|pad|>"), "<|endoftext|>", bos="<|endoftext|>"),
    "gpt-oss": Family("harmony", "bytes", _HARMONY, "<|return|>", eos_more=("<|endoftext|>", "<|call|>")),
    "bare": Family("bare", "bytes", ("<end>", "<user>", "<assistant>", "<system>"), "<end>"),
    "vicuna": Family("vicuna", "bytes", ("<s>", "</s>"), "</s>", bos="<s>"),
}  # fmt: skip


def saved(family: str, folder: Path) -> Path:
    """A folder with the tokenizer of that family, its template and its generation config."""
    told = FAMILIES[family]
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _trained(told.kind)
    tokenizer.add_special_tokens(
        [AddedToken(name.rstrip(), special=True, normalized=False, rstrip=name.endswith(" ")) for name in told.tokens]
    )
    tokenizer.add_tokens([AddedToken(name, special=False, normalized=False) for name in told.plain_tokens])
    tokenizer.save(str(folder / "tokenizer.json"))
    template = (TEMPLATES / f"{told.template}.jinja").read_text().removesuffix("\n")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": template,
        "eos_token": told.eos,
        "pad_token": told.eos,
        "clean_up_tokenization_spaces": False,
        **({"bos_token": told.bos} if told.bos else {}),
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    ends = [tokenizer.token_to_id(name) for name in (told.eos, *told.eos_more)]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    return folder


def _trained(kind: str) -> Tokenizer:
    if kind == "bytes":
        return _byte_level()
    return _sentence_pieces(prefix=kind == "pieces with a prefix")


def _byte_level() -> Tokenizer:
    """As GPT-2's, Qwen's and Llama 3's are."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(_CORPUS * 4, trainer)
    return tokenizer


def _sentence_pieces(*, prefix: bool) -> Tokenizer:
    """As Llama 2's and Mistral's (with a space put before each piece of text) or Gemma's (without) are."""
    space = normalizers.Replace(" ", "▁")
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), space]) if prefix else space
    taken = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*taken, *([decoders.Strip(" ", 1, 0)] if prefix else [])])
    bytes_of = [f"<0x{value:02X}>" for value in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=460, special_tokens=["<unk>", *bytes_of], show_progress=False)
    tokenizer.train_from_iterator(_CORPUS * 4, trainer)
    told = json.loads(tokenizer.to_str())  # bytes are no special tokens in models, as what a trainer puts first is
    told["added_tokens"] = [token for token in told["added_tokens"] if token["content"] not in bytes_of]
    return Tokenizer.from_str(json.dumps(told))
