"""A tokenizer from a model's folder, for texts of prompts and completions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rollstream.schemas.errors import cut
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
    except Exception as error:  # noqa: BLE001 - for a file of another shape its library raises just this class
        why = cut(" ".join(f"{type(error).__name__}: {error}".split()))
        if not (folder / "tokenizer.json").exists():  # transformers then tells of packages that are not at fault
            why = "it has no tokenizer.json: give the folder that the tokenizer's save_pretrained wrote"
        raise PromptFileError(str(folder), None, f"no tokenizer can be loaded: {why}") from None
