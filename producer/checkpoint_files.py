"""A checkpoint's folder is whole before it is announced, and its digest is the one that workers compute."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from producer.policy_errors import CheckpointError
from schemas import NameRefusedError
from schemas.content_digest import CHECKPOINT_FILES, content_digest
from schemas.folders import download_hint
from schemas.keys import check_name
from schemas.regular_files import open_regular

_CONFIG, _INDEX = "config.json", "model.safetensors.index.json"
_SHARD = re.compile(r".*-\d{5}-of-\d{5}\.safetensors")
"""Files that hold a part of the tensors. save_pretrained writes the index, which says what part, after all of them."""
_PIECE = 8 * 2**20
_MAX_CONFIG_BYTES, _MAX_INDEX_BYTES = 2**20, 64 * 2**20

Advanced = Callable[[int], None]
"""Takes how many bytes are done so far."""


def _unseen(_done: int) -> None:
    pass


class CheckpointFolder:
    """What of a folder is announced. Reads headers, JSON and names when made: half-written ones are refused at once."""

    def __init__(self, folder: Path) -> None:
        """Raises `CheckpointError`."""
        self._folder = folder
        try:
            self._real = folder.resolve()
            self.name = check_name("checkpoint folder", self._real.name)
            self._files = sorted({path for pattern in CHECKPOINT_FILES for path in self._real.glob(pattern)})
            self._check()
            self.num_bytes = sum(path.stat().st_size for path in self._files)
        except NameRefusedError as error:
            raise self._refusal(str(error)) from None
        except (OSError, ValueError, RuntimeError) as error:  # pathlib's for a NUL, and for a link to itself
            raise self._refusal(f"cannot be read: {error}") from None

    def digest(self, advanced: Advanced = _unseen) -> str:
        """Reads every byte (blocking: seconds for gigabytes). Raises `CheckpointError`, also for files that change."""
        try:
            before = self._stamps()
            read = _Counted(advanced)
            found = content_digest((path.name, path.stat().st_size, read.pieces(path)) for path in self._files)
            after = self._stamps()
        except OSError as error:
            raise self._refusal(f"cannot be read: {error}") from None
        if before != after:
            raise self._refusal("its files changed while they were read: publish it once it is written")
        return found

    def _check(self) -> None:
        if not self._real.is_dir():
            hint = download_hint(self._folder)
            raise self._refusal(f"no folder: write the model there with save_pretrained first{hint}")
        names = {path.name for path in self._files}
        if _CONFIG not in names or not any(name.endswith(".safetensors") for name in names):
            raise self._refusal(f"needs {_CONFIG} and *.safetensors: write it with save_pretrained first")
        for path in self._files:
            self._check_file(path)
        self._object(_CONFIG)
        self._check_shards(names)

    def _check_file(self, path: Path) -> None:
        if not path.resolve().is_relative_to(self._real) or not path.is_file():
            raise self._refusal(f"{path.name} is a link out of the folder or no file: copy the file into it")
        if path.suffix == ".safetensors":
            if problem := safetensors_problem(path):
                raise self._refusal(f"{path.name} is not whole ({problem}): publish it once it is written")
            return
        limit = _MAX_CONFIG_BYTES if path.name == _CONFIG else _MAX_INDEX_BYTES
        if path.stat().st_size > limit:
            raise self._refusal(f"{path.name} has more than {limit} bytes: save_pretrained writes far fewer")

    def _check_shards(self, names: set[str]) -> None:
        if _INDEX in names:
            if missing := sorted(self._indexed() - names):
                raise self._refusal(f"{_INDEX} names {missing[0]}, which is not there: publish it once it is written")
        elif shards := sorted(filter(_SHARD.fullmatch, names)):
            raise self._refusal(f"{shards[0]} needs {_INDEX}, which is not there: publish it once it is written")

    def _indexed(self) -> set[str]:
        mapped = self._object(_INDEX).get("weight_map")
        if not isinstance(mapped, dict) or not mapped:
            raise self._refusal(f"{_INDEX} has no weight_map: write it again")
        return {str(name) for name in mapped.values()}

    def _object(self, name: str) -> dict[str, Any]:
        """A JSON file whose size was checked."""
        try:
            with open_regular(self._real / name) as file:
                found = json.load(file)
        except (ValueError, RecursionError) as error:
            problem = f"{name} cannot be read ({type(error).__name__}): publish it once it is written"
            raise self._refusal(problem) from None
        if not isinstance(found, dict):
            raise self._refusal(f"{name} is no JSON object: write it with save_pretrained")
        return found

    def _stamps(self) -> list[tuple[str, int, int, int]]:
        stats = [(path.name, path.stat()) for path in self._files]
        return [(name, stat.st_size, stat.st_mtime_ns, stat.st_ino) for name, stat in stats]

    def _refusal(self, problem: str) -> CheckpointError:
        return CheckpointError(str(self._folder), problem)


def safetensors_problem(path: Path, dtypes: Collection[str] | None = None) -> str | None:
    """Why the file is no whole safetensors file, or has other `dtypes` (the format's words) than these; None for one
    that is and has not. Reads its header alone.
    """
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415 - the producer starts without it

    try:
        with safe_open(path, framework="numpy") as file:
            found = {file.get_slice(name).get_dtype() for name in ([] if dtypes is None else file.keys())}
    except SafetensorError as error:
        return str(error)[:200]
    strange = sorted(found.difference(dtypes or ()))
    return f"it has tensors of {strange[0]}, not {' or '.join(dtypes or ())}" if strange else None


class _Counted:
    """Reads files piece by piece and tells how many bytes that were, over all of them."""

    def __init__(self, advanced: Advanced) -> None:
        self._advanced = advanced
        self._done = 0

    def pieces(self, path: Path) -> Iterator[bytes]:
        with open_regular(path) as file:
            while piece := file.read(_PIECE):
                yield piece
                self._done += len(piece)
                self._advanced(self._done)
