"""A probe of a model that lies in a folder, run by transformers on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from rollstream.schemas import Probe, Tolerance
from rollstream.schemas.weights.folders import folder_problem, odd_entry

from .errors import ProbeError
from .make_probe import make_probe


def probe_of_folder(
    folder: Path | str,
    tokenizer: Path | str | None = None,
    *,
    dtype: Literal["float32", "auto"] = "float32",
    tolerance: Tolerance | None = None,
    max_tokens: int = 512,
    row_tokens: int = 64,
) -> Probe:
    """`make_probe` of the model in `folder`, as `save_pretrained` wrote it, for trainers whose model it cannot run.

    It proves that workers compute what transformers computes of these files; that the files hold what was trained, only
    the trainer's own log-probs prove (`make_probe`, `probe_of`). `tokenizer`: another folder. `dtype`: float32 is exact
    and needs 4 bytes a parameter; "auto" is that of the files. Raises `ProbeError`.
    """
    reader = _loaded("AutoTokenizer", Path(folder if tokenizer is None else tokenizer), "tokenizer")
    model = _loaded("AutoModelForCausalLM", Path(folder), "model", dtype=dtype)
    return make_probe(model, reader, tolerance=tolerance, max_tokens=max_tokens, row_tokens=row_tokens)


def _loaded(kind: str, folder: Path, what: str, **options: Any) -> Any:
    if problem := folder_problem(folder) or odd_entry(folder):
        raise ProbeError(f"{folder} {problem}")
    try:
        import transformers  # noqa: PLC0415 - heavy, and only some probes need it
        from safetensors import SafetensorError  # noqa: PLC0415 - as transformers
    except ImportError:
        raise ProbeError("a model is run by transformers: pip install transformers") from None
    try:
        return getattr(transformers, kind).from_pretrained(folder, local_files_only=True, **options)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        why = str(error).splitlines() or [type(error).__name__]
        raise ProbeError(f"{folder} holds no {what} that transformers can load: {why[0]}") from None
