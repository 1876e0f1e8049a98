"""What is wrong with a folder, and how to get one for a user who gave a model's id instead."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from .regular_files import NotRegularFileError, check_regular

_MODEL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")


def folder_problem(folder: Path) -> str | None:
    """Why `folder` cannot be used; None if it can."""
    try:
        found = os.stat(folder)  # noqa: PTH116 - pathlib would hide the error of a NUL
    except ValueError:
        return "is no path"
    except (FileNotFoundError, NotADirectoryError):
        return f"is no folder{download_hint(folder)}"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if not stat.S_ISDIR(found.st_mode):
        return "is no folder: give the one that the file lies in"
    return None if os.access(folder, os.R_OK | os.X_OK) else "cannot be read: this user may not"


def odd_entry(folder: Path) -> str | None:
    """Why a library that reads the files of a usable `folder` may wait for ever; None if they all are files."""
    for entry in sorted(folder.iterdir()):
        try:
            found = entry.stat()
            if not stat.S_ISDIR(found.st_mode):
                check_regular(found, entry)
        except NotRegularFileError as error:
            return f"holds {entry.name}: {error.strerror}"
        except OSError:
            continue  # a link that leads nowhere: opening it reports that
    return None


def download_hint(folder: Path) -> str:
    """What to do if the path looks like the id of a model or adapter on a hub; else an empty text."""
    text = str(folder)
    if not _MODEL_ID.fullmatch(text):
        return ""
    name = text.rpartition("/")[2]
    return (
        f": a folder is needed, nothing is fetched by its id; if {text} is one: hf download {text} --local-dir {name}"
    )
