"""Runs by an environment's own Python, in an empty folder: what somebody does first with what they installed.

It knows nothing of the repository. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import uuid
from importlib import metadata
from pathlib import Path

_BIN = Path(sys.executable).parent


def said(*words: str) -> str:
    """What one of our commands printed."""
    return subprocess.run([_BIN / words[0], *words[1:]], check=True, capture_output=True, text=True, timeout=300).stdout


def lean_imports() -> bool:
    """Whether a client is imported without torch and vLLM."""
    code = "import sys; import rollstream; from rollstream import AsyncClient, Client; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=300)
    return done.stdout.strip() == "False"


def served(url: str) -> list[int]:
    """The shape of the masks of a batch that a worker with the stub engine served; torch makes them."""
    from rollstream import Client, GenerationConfig

    policy = f"installed-{uuid.uuid4().hex[:8]}"
    command = [str(_BIN / "rollstream-worker"), "--engine", "stub", "--redis", url, "--policy", policy]
    worker = subprocess.Popen(command)
    try:
        with Client(url, policy=policy) as client:
            rollouts = client.submit([[5, 6], [7]], None, GenerationConfig(max_new_tokens=4)).result(timeout=120)
    finally:
        worker.terminate()
        ended = worker.wait(60)
    assert ended == 0, f"the worker ended with {ended}"
    return list(rollouts.response_mask.shape)


def main() -> None:
    """Try all of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    url = parser.parse_args().url
    import rollstream

    assert "site-packages" in str(rollstream.__file__), rollstream.__file__
    told = {
        "python": sys.version.split()[0],
        "version": rollstream.__version__,
        "metadata": metadata.version("rollstream"),
        "commands": [said("rollstream", "--version").strip(), said("rollstream-worker", "--version").strip()],
        "lean": lean_imports(),
        "demo": "--keep" in said("rollstream", "demo", "--help"),
        "shape": served(url),
        "torch": metadata.version("torch"),
    }
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
