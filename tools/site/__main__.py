"""`python -m tools.site FOLDER` writes the pages for mkdocs there; `make docs` calls it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .pages import write


def main() -> None:
    """Write the pages and say how many."""
    parser = argparse.ArgumentParser(prog="python -m tools.site", description=__doc__)
    parser.add_argument("folder", type=Path, help="Where the pages go; what is there is removed.")
    folder = parser.parse_args().folder
    sys.stdout.write(f"{len(write(folder))} pages in {folder}\n")


if __name__ == "__main__":
    main()
