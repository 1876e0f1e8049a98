"""Help at any width, in which no name, flag or sentence is cut: examples can be copied from it."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

_HYPHEN = "\u2011"
"""A hyphen after which no line ends."""
_WHOLE = 1_000
"""Characters; longer than the first sentence of any command."""
_OfTyper: Any = typer.Context.formatter_class  # click's, or that of a copy which some releases of typer carry


class _Formatter(_OfTyper):  # type: ignore[misc] # see above
    """Breaks lines between words only."""

    def write_text(self, text: str) -> None:
        super().write_text(text.replace("-", _HYPHEN))

    def write_dl(self, rows: Any, *args: Any, **more: Any) -> None:
        super().write_dl([(name, told.replace("-", _HYPHEN)) for name, told in rows], *args, **more)

    def getvalue(self) -> str:
        return str(super().getvalue()).replace(_HYPHEN, "-")


class _Context(typer.Context):
    formatter_class = _Formatter


class Commands(TyperGroup):
    """A group of commands with such a help, each of which is told by its whole first sentence."""

    context_class = _Context

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name; None if there is none."""
        command: Any = super().get_command(ctx, cmd_name)
        if command is not None:
            command.context_class = _Context
        return command

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write a line or more for each."""
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, one.get_short_help_str(_WHOLE)) for name, one in found if not one.hidden])
