"""For commands that listen at a port: which one, and what keeps them from it, in one line with exit code 2."""

from __future__ import annotations

from typing import Annotated

import typer

EXIT_USAGE = 2

Port = Annotated[str, typer.Option(metavar="PORT|auto", help="Where to listen; auto takes a free one.")]
Host = Annotated[str, typer.Option(help="Address to listen at. Any but a loopback address needs a token.")]


def port_number(text: str) -> int:
    """The port of `--port`; 0, any free one, for `auto`. Raises `typer.Exit`."""
    if text == "auto":
        return 0
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 0 < int(text) < 65536):
        raise cannot_start("--port: give a port from 1 to 65535, or auto for a free one")
    return int(text)


def cannot_start(problem: str) -> typer.Exit:
    """What to raise after `problem` was told."""
    typer.echo(f"rollstream: {problem}", err=True)
    return typer.Exit(EXIT_USAGE)
