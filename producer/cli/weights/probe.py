"""`rollstream probe`: a probe of a model in a folder, for workers that boot with it or for its publish."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from rollstream.schemas import Probe
from rollstream.schemas.message_files import PROBE_FILES
from rollstream.schemas.wire.proofs.probe import MAX_TOKENS

from ...probes.probe_of import check_enough
from ...probes.probe_of_folder import probe_of_folder
from ..output import exit_codes

commands = typer.Typer()
"""`app` adds this command to `rollstream`."""

_EPILOG = """Examples:

rollstream probe models/qwen-math --out qwen-math.probe

rollstream-worker --model models/qwen-math --probe qwen-math.probe --policy math-7b

rollstream publish 18 --checkpoint checkpoints/step-18 --probe step-18.probe --policy math-7b
"""


@commands.command(epilog=_EPILOG)
def probe(
    model: Annotated[Path, typer.Argument(metavar="MODEL_FOLDER", help="As save_pretrained writes it.")],
    out: Annotated[Path, typer.Option(metavar="FILE", dir_okay=False, help="Where to write the probe.")],
    tokenizer: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the tokenizer is; default: the model's folder.")
    ] = None,
    tokens: Annotated[int, typer.Option(min=2, max=MAX_TOKENS, help="How many tokens to score.")] = 512,
    row_tokens: Annotated[
        int, typer.Option(min=2, max=MAX_TOKENS, help="Tokens of a row; fewer than the workers' --max-model-len.")
    ] = 64,
    dtype: Annotated[
        Literal["float32", "auto"],
        typer.Option(help="float32 is exact; auto takes the dtype of the files, and half the memory."),
    ] = "float32",
) -> None:
    """Ask a model on the CPU for the log-probs of a few rows, and write them to a file.

    A worker started with --probe FILE takes no job before its boot model has reproduced them; `rollstream publish
    --probe FILE` has workers prove a new version the same way. The rows are texts in several languages and ids drawn at
    random, the same at each call. The model is run by transformers; in float32 it needs 4 bytes a parameter.
    """
    with exit_codes():
        PROBE_FILES.check_writable(out)
        typer.echo(f"loading {model} in {dtype} ...", err=True)
        found = probe_of_folder(model, tokenizer, dtype=dtype, max_tokens=tokens, row_tokens=row_tokens)
        check_enough(found)
        PROBE_FILES.write(out, found)
        typer.echo(_told(out, found))


def _told(out: Path, found: Probe) -> str:
    known = found.logprobs.numpy()
    return (
        f"{out}: {found.token_ids.shape[0]} tokens in {len(found.rows)} rows, vocabulary of {found.vocab_size}, "
        f"log-probs from {known.min():.2f} to {known.max():.2f}, mean {known.mean():.2f}"
    )
