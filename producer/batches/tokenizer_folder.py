"""A tokenizer from a model's folder, for texts of prompts and completions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rollstream.schemas.weights.folders import folder_problem, odd_entry

from ..errors import PromptFileError


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer as transformers has it, from files of this machine alone. Raises `PromptFileError`."""
    if problem := folder_problem(folder) or odd_entry(folder):
        raise PromptFileError(f"--tokenizer {folder}", None, problem)
    try:
        from transformers import AutoTokenizer  # noqa: PLC0415 - heavy, and only texts need it

        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except ImportError:
        raise PromptFileError(str(folder), None, "a tokenizer needs `pip install transformers`") from None
    except (OSError, ValueError) as error:
        raise PromptFileError(str(folder), None, f"no tokenizer can be loaded: {error}".splitlines()[0]) from None
