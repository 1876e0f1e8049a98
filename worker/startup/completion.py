"""What a shell is told when somebody presses Tab behind `rollstream-worker`; its script: `rollstream completion SHELL`.

The flags are written once, in `WorkerSettings`. Here Typer gets a command of them that completes and never runs.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import UnionType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from ..config import WorkerSettings
from ..engine_registry import ENGINES

VARIABLE = "_ROLLSTREAM_WORKER_COMPLETE"
"""A shell sets it to ask for completions."""


def asked(environment: Mapping[str, str]) -> bool:
    """Whether a shell asks for completions."""
    return VARIABLE in environment


def complete() -> None:
    """Answer the shell. Ends the process."""
    import typer  # noqa: PLC0415 - only a shell needs it

    # It has no better place in all releases of Typer.
    from typer.completion import completion_init  # type: ignore[attr-defined]  # noqa: PLC0415 - see above

    def worker(**settings: object) -> None:
        """Never runs."""

    fields = WorkerSettings.model_fields.items()
    vars(worker)["__signature__"] = inspect.Signature(
        [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_option(name, field))
            for name, field in [
                *fields,
                ("version", FieldInfo(annotation=bool, description="Print the version and exit.")),
            ]
        ]
    )
    worker.__annotations__.update({one.name: one.annotation for one in inspect.signature(worker).parameters.values()})
    completion_init()
    app = typer.Typer(add_completion=False)
    app.command()(worker)
    app(prog_name="rollstream-worker")


def values(name: str, annotation: object) -> list[str]:
    """The values that a flag may have, where they are few; for any other a shell offers files."""
    if name == "engine":
        return sorted(ENGINES)
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    if isinstance(annotation, UnionType) or get_origin(annotation) is not None:
        return [value for part in get_args(annotation) for value in values("", part)]
    return []


def _option(name: str, field: FieldInfo) -> Any:
    import typer  # noqa: PLC0415 - only a shell needs it

    flag = f"--{name.replace('_', '-')}"
    if field.annotation is bool:
        switch = flag if name == "version" else f"{flag}/--no-{flag.removeprefix('--')}"
        return Annotated[bool, typer.Option(switch, help=field.description)]
    few = values(name, field.annotation)
    return Annotated[str, typer.Option(flag, help=field.description, autocompletion=(lambda: few) if few else None)]
