"""Print what an image of a flavour needs, one requirement a line, from pyproject.toml in the current folder."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

FOR_ALL = ("observe", "otel", "weights")
"""Extras that each image has: they are small, and a flag that a worker has should work in it."""


def main(flavour: str) -> None:
    """Print them."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for requirement in (*project["dependencies"], *(one for extra in FOR_ALL for one in extras[extra])):
        sys.stdout.write(f"{requirement}\n")
    for requirement in extras.get(flavour, ()):
        sys.stdout.write(f"{requirement}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
