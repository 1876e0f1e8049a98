"""`rollstream completion SHELL`, and the answers that its scripts get when somebody presses Tab."""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

import typer

VARIABLE = "_ROLLSTREAM_COMPLETE"
"""Typer completes instead of running a command where the environment has it; its value names the shell."""
_COMMANDS = {"rollstream": VARIABLE, "rollstream-worker": "_ROLLSTREAM_WORKER_COMPLETE"}


class Shell(StrEnum):
    """Shells with a script."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


EPILOG = (
    "Now and here: source <(rollstream completion bash). Always, from the next shell on: rollstream completion bash > "
    "~/.rollstream-completion, and the line `source ~/.rollstream-completion` in ~/.bashrc (zsh: in ~/.zshrc, after "
    "compinit). fish: rollstream completion fish > ~/.config/fish/conf.d/rollstream.fish."
)
commands = typer.Typer()


@commands.command(epilog=EPILOG)
def completion(shell: Annotated[Shell, typer.Argument(help="The shell that shall complete.")]) -> None:
    """Print a script that lets your shell complete `rollstream` and `rollstream-worker`: commands, options, values."""
    # Typer has no better place for it in all releases, and does not say that this one is public.
    from typer.completion import get_completion_script  # type: ignore[attr-defined]  # noqa: PLC0415 - seldom needed

    for program, variable in _COMMANDS.items():
        typer.echo(get_completion_script(prog_name=program, complete_var=variable, shell=shell.value))


def prepare(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a shell asks for completions; if so, `typer` can answer it from now on."""
    if VARIABLE not in environment:
        return False
    from typer.completion import completion_init  # type: ignore[attr-defined]  # noqa: PLC0415 - see above

    completion_init()
    return True
