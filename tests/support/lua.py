"""The scripts of producer and worker, by name: no two rooms have one of the same."""

from __future__ import annotations

from pathlib import Path

import rollstream

ROOT = Path(rollstream.__file__).parents[1]


def lua_file(name: str) -> Path:
    """The script that is called `name`, such as `publish.lua`."""
    (found,) = [*ROOT.glob(f"producer/**/{name}"), *ROOT.glob(f"worker/**/{name}")]
    return found
