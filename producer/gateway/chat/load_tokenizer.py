"""A tokenizer from a folder, with the ids that end what its model generates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .errors import ChatTemplateError

_CONFIGS = ("generation_config.json", "config.json")


def load_tokenizer(folder: Path) -> tuple[Any, list[int]]:
    """The tokenizer and the model's EOS ids, as far as the folder tells. Raises `ChatTemplateError`.

    Never looks anywhere but in the folder and runs no code of it: not every folder is one's own.
    """
    if not folder.is_dir():
        raise ChatTemplateError(str(folder), "is no folder; give the one that has tokenizer.json")
    try:
        from transformers import AutoTokenizer  # noqa: PLC0415 - takes seconds to load
    except ImportError as error:
        raise ChatTemplateError(str(folder), "needs transformers: pip install rollstream[gateway]") from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise ChatTemplateError(str(folder), f"its tokenizer cannot be loaded: {error}") from error
    if not getattr(tokenizer, "is_fast", False):
        raise ChatTemplateError(str(folder), "has no tokenizer.json, which a fast tokenizer needs")
    if not tokenizer.chat_template:
        raise ChatTemplateError(str(folder), "its tokenizer has no chat template (chat_template.jinja)")
    return tokenizer, [id for name in _CONFIGS for id in _eos_ids(folder / name)]


def _eos_ids(path: Path) -> list[int]:
    """EOS ids of a configuration; none where it is not there or does not tell."""
    try:
        given = json.loads(path.read_text())["eos_token_id"]
    except (OSError, ValueError, LookupError, TypeError):
        return []
    ids = given if isinstance(given, list) else [given]
    return [id for id in ids if isinstance(id, int) and not isinstance(id, bool)]
