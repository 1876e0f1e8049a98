"""Prompts in and results out as JSON lines; the error for a bad line names its file and number."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from rollstream.schemas import Completion, GroupError, GroupScores

from ..batches.read_answers import AnyAnswer
from ..batches.tokenizer_folder import read_tokenizer
from ..errors import PromptFileError

T = TypeVar("T")
Tokenize = Callable[[str], list[int]]

_SHAPE = 'a row is {"prompt_token_ids": [...]} or {"text": "..."}'


class PromptRow(NamedTuple):
    """A line of a file of prompts."""

    ids: list[int]
    images: list[Path]
    """Files, in the order of their placeholders."""
    expected_tokens: int | None
    """About how many tokens a completion has; all rows of a file have it, or none."""


def read_prompt_file(file: Path, tokenizer: Path | None) -> list[PromptRow]:
    """The prompts of a file, `-` for stdin; `tokenizer` is a folder, for rows of text. Raises `PromptFileError`."""
    tokenize = None if tokenizer is None else load_tokenizer(tokenizer)
    folder = Path() if str(file) == "-" else file.parent
    return read_file(file, lambda lines, source: read_prompts(lines, source, tokenize, folder))


def expected_of(prompts: list[PromptRow]) -> list[int] | None:
    """What the rows of a file say that completions have; None if they say nothing."""
    told = [row.expected_tokens for row in prompts if row.expected_tokens is not None]
    return told or None


def read_file(file: Path, read: Callable[[Iterable[bytes], str], list[T]]) -> list[T]:
    """What `read` makes of the file's lines and its name; `-` is stdin. Raises `PromptFileError`."""
    if str(file) == "-":
        return read(sys.stdin.buffer, "<stdin>")
    try:
        with file.open("rb") as lines:
            return read(lines, str(file))
    except OSError as error:
        raise PromptFileError(str(file), None, error.strerror or "cannot be read") from None


def read_prompts(lines: Iterable[bytes], source: str, tokenize: Tokenize | None, folder: Path) -> list[PromptRow]:
    """One prompt a line of UTF-8; empty lines are skipped. Paths of images are relative to `folder`.

    Raises `PromptFileError`, which names file and line.
    """
    prompts = [
        PromptRow(
            _prompt(row, source, number, tokenize),
            _images(row, source, number, folder),
            _expected_tokens(row, source, number),
        )
        for number, row in objects(lines, source, _SHAPE)
    ]
    if not prompts:
        raise PromptFileError(source, None, f"no prompts: {_SHAPE}")
    without = sum(row.expected_tokens is None for row in prompts)
    if 0 < without < len(prompts):
        problem = f'{without} of {len(prompts)} rows have no "expected_tokens": give it in all rows or in none'
        raise PromptFileError(source, None, problem)
    return prompts


def objects(lines: Iterable[bytes], source: str, shape: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The line's number and object of each line that is not empty. Raises `PromptFileError`; `shape` is the remedy."""
    for number, line in enumerate(lines, start=1):
        if not line.isspace():
            yield number, _object(line, source, number, shape)


def _object(line: bytes, source: str, number: int, shape: str) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise PromptFileError(source, number, "no UTF-8") from None
    except RecursionError:
        raise PromptFileError(source, number, "JSON nested too deeply") from None
    except ValueError as error:
        raise PromptFileError(source, number, f"no JSON ({error})") from None
    if not isinstance(row, dict):
        raise PromptFileError(source, number, shape)
    return row


def _prompt(row: dict[str, Any], source: str, number: int, tokenize: Tokenize | None) -> list[int]:
    if ("prompt_token_ids" in row) == ("text" in row):
        raise PromptFileError(source, number, _SHAPE)
    if "text" in row:
        if not isinstance(row["text"], str):
            raise PromptFileError(source, number, '"text" must be a string')
        if tokenize is None:
            raise PromptFileError(source, number, "text needs --tokenizer with the folder of the model's tokenizer")
        if not _is_unicode(row["text"]):
            raise PromptFileError(source, number, '"text" holds half of a surrogate pair, which no tokenizer takes')
        return tokenize(row["text"])
    return ids_of("prompt_token_ids", row, source, number)


def _images(row: dict[str, Any], source: str, number: int, folder: Path) -> list[Path]:
    given = row.get("images", [])
    if not isinstance(given, list) or not all(isinstance(one, str) and one and "\0" not in one for one in given):
        raise PromptFileError(source, number, '"images" must be a list of paths of files')
    return [folder / one for one in given]


def _expected_tokens(row: dict[str, Any], source: str, number: int) -> int | None:
    given = row.get("expected_tokens")
    if given is not None and not (type(given) is int and 0 <= given < 2**31):
        raise PromptFileError(source, number, '"expected_tokens" must be an integer from 0 to 2147483647')
    return given


def _is_unicode(text: str) -> bool:
    """False for a lone surrogate, which a JSON escape can spell although it is no character."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def ids_of(name: str, row: dict[str, Any], source: str, number: int) -> list[int]:
    """The ids in a field of a line. Raises `PromptFileError`."""
    ids = row[name]
    if not isinstance(ids, list) or not all(type(item) is int and 0 <= item < 2**31 for item in ids):
        raise PromptFileError(source, number, f'"{name}" must be a list of integers from 0 to 2147483647')
    return ids


def load_tokenizer(folder: Path) -> Tokenize:
    """Load the tokenizer from a model's folder; it adds special tokens as configured. Raises `PromptFileError`."""
    tokenizer = read_tokenizer(folder)
    return lambda text: [int(token) for token in tokenizer.encode(text)]


def result_line(answer: AnyAnswer) -> str:
    """One group as a line of ASCII JSON that ends with a newline."""
    if isinstance(answer, GroupScores):
        return json.dumps({"batch_id": answer.batch_id, "group": answer.group, **_scores(answer)}) + "\n"
    prompt = None if answer.prompt is None else answer.prompt.numpy().tolist()
    row: dict[str, Any] = {"batch_id": answer.batch_id, "group": answer.group, "prompt_token_ids": prompt}
    if isinstance(answer, GroupError):
        row["error"] = {"code": answer.code, "field": answer.field, "message": answer.message}
    else:
        row["completions"] = [_completion(one) for one in answer.completions]
        if answer.images:
            row["images"] = [ref.model_dump() for ref in answer.images]
            row["image_spans"] = [span.model_dump() for span in answer.image_spans]
        for name in ("sample_index", "cut_lengths"):
            if (numbers := getattr(answer, name)) is not None:
                row[name] = numbers.tolist()
    return json.dumps(row) + "\n"


def _scores(scores: GroupScores) -> dict[str, Any]:
    row: dict[str, Any] = {"log_probs": scores.logprobs.numpy().tolist(), "version": scores.policy_version}
    if scores.top_token_ids is not None and scores.top_logprobs is not None:
        row["top_token_ids"] = scores.top_token_ids.numpy().tolist()
        row["top_log_probs"] = [_numbers(column) for column in scores.top_logprobs.numpy().tolist()]
    return row


def _completion(one: Completion) -> dict[str, Any]:
    row: dict[str, Any] = {
        "token_ids": one.token_ids,
        "logprobs": None if one.logprobs is None else _numbers(one.logprobs),
        "finish_reason": one.finish_reason,
        "stop_reason": one.stop_reason,
        "text": one.text,
        "score": None if one.score is None else _numbers([one.score])[0],
        "version_spans": one.version_spans,
    }
    return row | _asked_for(one)


def _asked_for(one: Completion) -> dict[str, Any]:
    """What only some configs ask for: the keys are left out where it was not."""
    row: dict[str, Any] = {}
    if one.top_token_ids is not None and one.top_logprobs is not None:
        row["top_token_ids"] = one.top_token_ids.tolist()
        row["top_logprobs"] = [_numbers(column) for column in one.top_logprobs.tolist()]
    if one.label_logprobs is not None:
        row["label_logprobs"] = [_numbers(column) for column in one.label_logprobs.tolist()]
    if one.support is not None:
        row["support"] = [ids.tolist() for ids in one.support]
    if one.forced is not None:
        row["forced"] = one.forced.tolist()
    if one.resumed_at:
        row["resumed_at"] = one.resumed_at
    return row


def _numbers(values: list[float]) -> list[float | None]:
    """NaN and infinity become None: JSON has neither."""
    return [value if math.isfinite(value) else None for value in values]
