"""A probe in a file: the bytes of its message, for `--probe` of a worker and of `rollstream publish`."""

from __future__ import annotations

import os
from pathlib import Path

from rollstream.schemas import Probe, SchemaError, decode, encode
from rollstream.schemas.weights.regular_files import open_regular

from .errors import ProbeError

_MAX_BYTES = 2**20
"""A probe has at most 8192 tokens, so far fewer bytes."""


def read_probe(path: Path) -> Probe:
    """The probe in this file. Raises `ProbeError`."""
    try:
        with open_regular(path) as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ProbeError(f"{path} cannot be read: {error.strerror or error}") from None
    if len(content) > _MAX_BYTES:
        raise ProbeError(f"{path} is no probe: it has more than {_MAX_BYTES} bytes")
    try:
        return decode(content, Probe)
    except SchemaError as error:
        raise ProbeError(f"{path} is no probe: {error}") from None


def write_probe(path: Path, probe: Probe) -> None:
    """Write the file whole or not at all. Raises `OSError`."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(encode(probe))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
