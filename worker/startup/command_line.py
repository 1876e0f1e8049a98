"""Make settings from flags and environment, or lines that name what is wrong and show no value: it may be secret."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from pydantic import ValidationError
from pydantic_settings import SettingsError as SourceError

from rollstream.schemas import RollstreamError
from rollstream.schemas.environment import check_environment, nearest
from rollstream.schemas.printable import printable

from ..config import WorkerSettings
from ..errors import SettingsError


def read_settings(argv: Sequence[str]) -> WorkerSettings:
    """Read the settings. Raises `SettingsError` with one line for each problem; ends the process after `--help`."""
    try:
        if "--help" not in argv and "-h" not in argv:
            check_environment(os.environ)
            _check_flags(argv)
        return WorkerSettings(_cli_parse_args=list(argv))
    except ValidationError as error:
        raise SettingsError("\n".join(_problems(error))) from None
    except SourceError as error:
        raise SettingsError(_without_values(str(error))) from None
    except SettingsError:
        raise
    except RollstreamError as error:
        raise SettingsError(str(error)) from None


def _check_flags(argv: Sequence[str]) -> None:
    known = {"--help", "--version"}
    for name, field in WorkerSettings.model_fields.items():
        flag = name.replace("_", "-")
        known |= {f"--{flag}", f"--no-{flag}"} if field.annotation is bool else {f"--{flag}"}
    for word in argv:
        flag = word.partition("=")[0]
        if flag.startswith("--") and flag not in known:
            near = nearest(flag, known)
            meant = f"do you mean {near}?" if near else "--help lists the flags"
            raise SettingsError(f"{printable(flag[:100])}: there is no such flag; {meant}")


def _problems(error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_url=False, include_input=False):
        flag = "--" + "-".join(str(part) for part in problem["loc"]).replace("_", "-")
        text = problem["msg"].removeprefix("Value error, ")
        yield text if flag == "--" else f"{flag}: {text}"


def _without_values(text: str) -> str:
    """The text of argparse and pydantic-settings without words of the command line, which may be a password."""
    text = text.removeprefix("error parsing CLI: ")
    if text.startswith("unrecognized arguments"):
        return "there is a word that belongs to no flag: is a value with spaces in quotes?"
    for name in WorkerSettings.model_fields:
        if f"Parsing error encountered for {name}:" in text or f'field "{name}"' in text:
            return f"--{name.replace('_', '-')}: it cannot be read: write it as JSON"
    return printable(text)
