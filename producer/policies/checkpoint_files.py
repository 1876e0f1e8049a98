"""Check that a checkpoint's folder is complete before it is announced, and compute the digest that workers compute."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rollstream.schemas import NameRefusedError
from rollstream.schemas.keys import check_name
from rollstream.schemas.weights.checkpoint_rules import INDEX, index_difference, is_computed, unread_weights, wrapped
from rollstream.schemas.weights.content_digest import CHECKPOINT_FILES, content_digest
from rollstream.schemas.weights.finite import FiniteScan, not_finite
from rollstream.schemas.weights.folders import download_hint
from rollstream.schemas.weights.regular_files import open_regular
from rollstream.schemas.weights.tied_head import head_difference

from .errors import CheckpointError

_CONFIG = "config.json"
_PIECE = 8 * 2**20
_MAX_CONFIG_BYTES, _MAX_INDEX_BYTES = 2**20, 64 * 2**20

Advanced = Callable[[int], None]
"""Called with the number of bytes done so far."""


def _unseen(_done: int) -> None:
    pass


_Stamp = tuple[str, int, int, int]
"""A file's name and size, and the times when its content and its metadata last changed."""


def _contents(stamps: list[_Stamp]) -> list[tuple[str, int, int]]:
    return [(name, size, mtime_ns) for name, size, mtime_ns, _ in stamps]


class _Tensor(NamedTuple):
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


class CheckpointFolder:
    """The files of a folder that are announced. Made from headers, JSON and names; refuses a half-written folder."""

    def __init__(self, folder: Path) -> None:
        """Check the folder. Raises `CheckpointError`."""
        self._folder = folder
        try:
            self._real = folder.resolve()
            self.name = check_name("checkpoint folder", self._real.name)
            self._files = sorted({path for pattern in CHECKPOINT_FILES for path in self._real.glob(pattern)})
            self._check()
            self.num_bytes = sum(path.stat().st_size for path in self._files)
        except NameRefusedError as error:
            raise self._refusal(str(error)) from None
        except (OSError, ValueError, RuntimeError) as error:  # pathlib raises these for a NUL and for a link to itself
            raise self._refusal(f"cannot be read: {error}") from None

    def digest(self, advanced: Advanced = _unseen) -> str:
        """Read every byte and return the digest. Blocks, for seconds if there are gigabytes.

        Raises `CheckpointError`, also for files that change meanwhile and for weights that are NaN or infinite.
        """
        scans = {path.name: FiniteScan(is_computed) for path in self._files if path.suffix == ".safetensors"}
        try:
            before = self.stamps()
            found = self._read(_Counted(advanced), scans)
            after = self.stamps()
            # A new link to a file or other rights change a time too, so a second read tells if the content changed.
            same = before == after or (_contents(before) == _contents(after) and found == self._read(_Counted(), {}))
        except OSError as error:
            raise self._refusal(f"cannot be read: {error}") from None
        if not same:
            raise self._refusal("its files changed while they were read: publish it once it is written")
        for name, scan in scans.items():
            if scan.spoilt:
                raise self._refusal(f"{name}: {not_finite(scan.spoilt)}")
        return found

    def _read(self, read: _Counted, scans: Mapping[str, FiniteScan]) -> str:
        return content_digest(
            (path.name, path.stat().st_size, read.pieces(path, scans.get(path.name))) for path in self._files
        )

    def _check(self) -> None:
        if not self._real.is_dir():
            hint = download_hint(self._folder)
            raise self._refusal(f"no folder: write the model there with save_pretrained first{hint}")
        names = {path.name for path in self._files}
        if _CONFIG not in names or not any(name.endswith(".safetensors") for name in names):
            raise self._refusal(f"needs {_CONFIG} and *.safetensors: write it with save_pretrained first")
        for path in self._files:
            self._check_file(path)
        self.config = self._object(_CONFIG)
        self._check_files(names)

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

    def _check_files(self, names: set[str]) -> None:
        """Refuse a folder in which vLLM would read a weight that is not meant, or find one twice."""
        mapped = self._weight_map() if INDEX in names else None
        indexed = None if mapped is None else set(mapped.values())
        if indexed is not None and (missing := sorted(indexed - names)):
            raise self._refusal(f"{INDEX} names {missing[0]}, which is not there: publish it once it is written")
        if problem := unread_weights((path.name for path in self._real.iterdir()), indexed):
            raise self._refusal(problem)
        held = {path.name: _tensors(path) for path in self._files if path.suffix == ".safetensors"}
        if mapped is not None and (problem := index_difference(mapped, held)):
            raise self._refusal(f"{INDEX}: {problem}")
        self._check_tensors(held)

    def _check_tensors(self, held: dict[str, dict[str, _Tensor]]) -> None:
        tensors: dict[str, tuple[_Tensor, str]] = {}
        for name, found in held.items():
            for tensor, span in found.items():
                if is_computed(tensor, span.shape):
                    continue
                if tensor in tensors:
                    raise self._refusal(
                        f"tensor {tensor} is in {tensors[tensor][1]} and in {name}: save the model again"
                    )
                tensors[tensor] = span, name
        if problem := wrapped(tensors) or (self._tied() and head_difference(self._real, tensors)):
            raise self._refusal(problem)

    def _tied(self) -> bool:
        config = self.config
        text = config.get("text_config")
        said = (text if isinstance(text, dict) else {}).get("tie_word_embeddings", config.get("tie_word_embeddings"))
        return said is True

    def _weight_map(self) -> dict[str, str]:
        mapped = self._object(INDEX).get("weight_map")
        if not isinstance(mapped, dict) or not mapped:
            raise self._refusal(f"{INDEX} has no weight_map: write it again")
        return {str(tensor): str(name) for tensor, name in mapped.items()}

    def _object(self, name: str) -> dict[str, Any]:
        """Read a JSON object from a file whose size has been checked."""
        try:
            with open_regular(self._real / name) as file:
                found = json.load(file)
        except (ValueError, RecursionError) as error:
            problem = f"{name} cannot be read ({type(error).__name__}): publish it once it is written"
            raise self._refusal(problem) from None
        if not isinstance(found, dict):
            raise self._refusal(f"{name} is no JSON object: write it with save_pretrained")
        return found

    def stamps(self) -> list[_Stamp]:
        """Stamps without inode numbers, because some file systems invent new ones at each look."""
        stats = [(path.name, path.stat()) for path in self._files]
        return [(name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for name, stat in stats]

    def _refusal(self, problem: str) -> CheckpointError:
        return CheckpointError(str(self._folder), problem)


def safetensors_problem(path: Path, dtypes: Collection[str] | None = None) -> str | None:
    """Why the file is not a complete safetensors file, or which dtype it has that is not in `dtypes`; None if neither.

    `dtypes`: names of the format; None: any. Reads only the header.
    """
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415 - the producer starts without it

    try:
        with safe_open(path, framework="numpy") as file:
            found = {file.get_slice(name).get_dtype() for name in ([] if dtypes is None else file.keys())}
    except SafetensorError as error:
        return str(error)[:200]
    strange = sorted(found.difference(dtypes or ()))
    return f"it has tensors of {strange[0]}, not {' or '.join(dtypes or ())}" if strange else None


def _tensors(path: Path) -> dict[str, _Tensor]:
    """The tensors in the header of a file that the safetensors library has accepted."""
    with open_regular(path) as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return {
        name: _Tensor(found["dtype"], tuple(found["shape"]), *found["data_offsets"])
        for name, found in header.items()
        if name != "__metadata__"
    }


class _Counted:
    """Reads files piece by piece and reports how many bytes of all files are done."""

    def __init__(self, advanced: Advanced = _unseen) -> None:
        self._advanced = advanced
        self._done = 0

    def pieces(self, path: Path, scan: FiniteScan | None) -> Iterator[bytes]:
        with open_regular(path) as file:
            while piece := file.read(_PIECE):
                if scan is not None:
                    scan.feed(piece)
                yield piece
                self._done += len(piece)
                self._advanced(self._done)
