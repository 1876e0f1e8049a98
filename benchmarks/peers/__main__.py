"""`python -m benchmarks.peers FOLDER`: a virtual environment for each peer; arq needs redis < 6, others a newer one."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks.peers.arms import arms


def main() -> None:
    """Make the environments that do not exist yet."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    for arm in arms(32, 256).values():
        if arm.requires and not (folder / arm.name).exists():
            subprocess.run([sys.executable, "-m", "venv", folder / arm.name], check=True)
            subprocess.run([folder / arm.name / "bin" / "pip", "install", "--quiet", *arm.requires], check=True)


if __name__ == "__main__":
    main()
