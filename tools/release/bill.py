"""The bill of materials of a wheel: all that it needs, at the versions that it is tested with, as CycloneDX JSON."""

from __future__ import annotations

import json
import shutil
import sys
import venv
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path
from zipfile import ZipFile

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from .sources import ReleaseError, run

PYTHON = (3, 11)
"""With another one `make setup` installs the newest versions of the day."""

_PROJECT = """[project]
name = "{name}"
version = "{version}"
description = {description}
license = "{license}"
dependencies = {dependencies}
"""


def path_of(python: Path) -> list[str]:
    """Where this Python finds its packages. Raises `ReleaseError` if it is not that of tools/constraints.txt."""
    told = run(python, "-c", "import json, sys; print(json.dumps([sys.version_info[:2], sys.path]))")
    version, path = json.loads(told)
    if tuple(version) != PYTHON:
        wanted = ".".join(map(str, PYTHON))
        raise ReleaseError(
            f"{python} is Python {'.'.join(map(str, version))}; a release is made with Python {wanted}, that of "
            f"tools/constraints.txt: make PYTHON=python{wanted} release"
        )
    return [str(folder) for folder in path]


def write_bill(wheel: Path, tested: list[str], target: Path, work: Path) -> None:
    """Write it to `target`. `tested`: where the Python that tests run with finds packages; `work`: an empty folder.

    cyclonedx-py reads an environment. This one has the metadata of what the wheel needs, and nothing else.
    """
    with ZipFile(wheel) as archive:
        (info,) = [Path(name).parent for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        archive.extractall(work / "wheel", [name for name in archive.namelist() if Path(name).parent == info])
    of_wheel = Distribution.at(work / "wheel" / info)
    environment = work / "environment"
    venv.create(environment, symlinks=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    for one in _needed(of_wheel, {canonicalize_name(one.name): one for one in distributions(path=tested)}):
        folder = Path(str(one.locate_file(""))) / _info(one)
        shutil.copytree(folder, packages / folder.name)
    project = work / "pyproject.toml"
    project.write_text(_project(of_wheel))
    cyclonedx = Path(sys.executable).parent / "cyclonedx-py"
    run(
        cyclonedx, "environment", environment / "bin" / "python", "--pyproject", project, "--mc-type", "library",
        "--output-reproducible", "--output-format", "JSON", "--output-file", target,
    )  # fmt: skip


def _needed(wheel: Distribution, found: dict[str, Distribution]) -> Iterator[Distribution]:
    """What the wheel needs without any extra, and what that needs, each once. Raises `ReleaseError`."""
    seen: set[str] = set()
    waiting = [(wheel, "")]
    while waiting:
        one, extra = waiting.pop()
        for text in one.requires or []:
            asked = Requirement(text)
            name = canonicalize_name(asked.name)
            if asked.marker is not None and not asked.marker.evaluate({"extra": extra}):
                continue
            if name not in found:
                raise ReleaseError(f"{one.name} needs {asked}, which the tested environment lacks: make setup")
            waiting += [(found[name], extra) for extra in asked.extras if f"{name}[{extra}]" not in seen]
            seen |= {f"{name}[{extra}]" for extra in asked.extras}
            if name not in seen:
                seen.add(name)
                waiting.append((found[name], ""))
                yield found[name]


def _info(one: Distribution) -> str:
    """The name of its metadata's folder."""
    return next(file.parts[0] for file in one.files or [] if file.parts[0].endswith(".dist-info"))


def _project(wheel: Distribution) -> str:
    meta = wheel.metadata
    asked = [text for text in wheel.requires or [] if "extra ==" not in text]
    return _PROJECT.format(
        name=meta["Name"], version=meta["Version"], description=json.dumps(meta["Summary"]),
        license=meta["License-Expression"], dependencies=json.dumps(asked),
    )  # fmt: skip
