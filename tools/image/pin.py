"""Renew what pins the images: `make image-pins`, with Python 3.11, whose wheels they are.

Nothing is installed: pip resolves and says what it would take. The CPU's and the stub's versions are those of
tools/constraints.txt.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
GPU = "vllm==0.26.0"
"""What ran on GPUs (docs/performance.md)."""
SBOM = "cyclonedx-bom==7.5.0"


def resolve(*requirements: str) -> list[str]:
    """`name==version` of all that pip would install, sorted."""
    with tempfile.NamedTemporaryFile() as report:
        options = ["--quiet", "--dry-run", "--ignore-installed", "--report", report.name]
        subprocess.run([sys.executable, "-m", "pip", "install", *options, *requirements], check=True)
        found = json.loads(Path(report.name).read_text())["install"]
    return sorted((f"{one['metadata']['name']}=={one['metadata']['version']}" for one in found), key=str.lower)


def write(name: str, head: str, lines: Sequence[str]) -> None:
    """Write a file of pins beside this one."""
    (HERE / name).write_text("\n".join([f"# {head} `make image-pins` renews it.", *lines]) + "\n")


def main() -> None:
    """Renew both files."""
    if sys.version_info[:2] != (3, 11):
        sys.exit(f"the images have Python 3.11, this is {sys.version.split()[0]}")
    asked = subprocess.run(
        [sys.executable, HERE / "requirements.py", "gpu"], check=True, capture_output=True, text=True
    ).stdout.split("\n")
    write("constraints-gpu.txt", "All that the GPU image installs.", resolve(GPU, *filter(None, asked)))
    write("sbom.txt", "What writes an image's list of parts (SBOM).", resolve(SBOM))


if __name__ == "__main__":
    main()
