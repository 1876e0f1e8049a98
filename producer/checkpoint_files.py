"""A checkpoint's folder is whole before it is announced, and its digest is the one that workers compute."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from producer.policy_errors import CheckpointError
from schemas import NameRefusedError
from schemas.content_digest import CHECKPOINT_FILES, content_digest
from schemas.keys import check_name

_CONFIG, _INDEX = "config.json", "model.safetensors.index.json"
_PIECE = 8 * 2**20
_MAX_INDEX_BYTES = 64 * 2**20

Advanced = Callable[[int], None]
"""Takes how many bytes are done so far."""


def _unseen(_done: int) -> None:
    pass


class CheckpointFolder:
    """What of a folder is announced. Reads headers and names when made: half-written ones are refused at once."""

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
        except OSError as error:
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
            raise self._refusal("no folder: write the model there with save_pretrained first")
        names = {path.name for path in self._files}
        if _CONFIG not in names or not any(name.endswith(".safetensors") for name in names):
            raise self._refusal(f"needs {_CONFIG} and *.safetensors: write it with save_pretrained first")
        for path in self._files:
            if not path.resolve().is_relative_to(self._real) or not path.is_file():
                raise self._refusal(f"{path.name} is a link out of the folder or no file: copy the file into it")
            if path.suffix == ".safetensors" and (problem := safetensors_problem(path)):
                raise self._refusal(f"{path.name} is not whole ({problem}): publish it once it is written")
        if _INDEX in names and (missing := sorted(self._indexed() - names)):
            raise self._refusal(f"{_INDEX} names {missing[0]}, which is not there: publish it once it is written")

    def _indexed(self) -> set[str]:
        try:
            with (self._real / _INDEX).open("rb") as file:
                return {str(name) for name in json.loads(file.read(_MAX_INDEX_BYTES))["weight_map"].values()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise self._refusal(f"{_INDEX} cannot be read ({type(error).__name__}): write it again") from None

    def _stamps(self) -> list[tuple[str, int, int, int]]:
        stats = [(path.name, path.stat()) for path in self._files]
        return [(name, stat.st_size, stat.st_mtime_ns, stat.st_ino) for name, stat in stats]

    def _refusal(self, problem: str) -> CheckpointError:
        return CheckpointError(str(self._folder), problem)


def safetensors_problem(path: Path) -> str | None:
    """Why the file is no whole safetensors file; None for one that is. Reads its header alone."""
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415 - the producer starts without it

    try:
        with safe_open(path, framework="numpy"):
            return None
    except SafetensorError as error:
        return str(error)[:200]


class _Counted:
    """Reads files piece by piece and tells how many bytes that were, over all of them."""

    def __init__(self, advanced: Advanced) -> None:
        self._advanced = advanced
        self._done = 0

    def pieces(self, path: Path) -> Iterator[bytes]:
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                yield piece
                self._done += len(piece)
                self._advanced(self._done)
