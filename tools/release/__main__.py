"""`python -m tools.release` writes dist/: sdist, wheel, bill of materials, SHA256SUMS; `make release` calls it."""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

from .bill import path_of, write_bill
from .sources import ReleaseError, committed_at, export, run, same_bytes, unpack

ROOT = Path(__file__).parents[2]


def release(target: Path, tested: Path, work: Path) -> list[Path]:
    """All files of a release of the last commit, below `target`, which becomes theirs alone. Raises `ReleaseError`."""
    path_of(Path(sys.executable))
    packages = path_of(tested)
    time = committed_at(ROOT)
    os.umask(0o022)
    os.environ["SOURCE_DATE_EPOCH"] = str(time)
    shutil.rmtree(target, ignore_errors=True)
    export(ROOT, work / "source")
    sdist = _build("--sdist", work / "source", target)
    same_bytes(sdist, time)
    wheel = _build("--wheel", unpack(sdist, work / "sdist"), target)
    run(Path(sys.executable).parent / "twine", "check", "--strict", sdist, wheel)
    bill = target / f"{sdist.name.removesuffix('.tar.gz')}.cdx.json"
    write_bill(wheel, packages, bill, work / "bill")
    made = [sdist, wheel, bill]
    (target / "SHA256SUMS").write_text("".join(f"{_sum(path)}  {path.name}\n" for path in sorted(made)))
    return [*made, target / "SHA256SUMS"]


def _build(what: str, source: Path, target: Path) -> Path:
    """What the build made. Without isolation: the pinned setuptools, whose name and version a wheel has."""
    before = set(target.glob("*"))
    run(sys.executable, "-m", "build", what, "--no-isolation", "--outdir", target, source)
    (made,) = set(target.glob("*")) - before
    return made


def _sum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    """Make the release and name its files, or say what hinders it."""
    parser = argparse.ArgumentParser(prog="python -m tools.release", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="Where they go; what is there is removed.")
    parser.add_argument(
        "--tested", type=Path, default=ROOT / ".venv" / "bin" / "python",
        help="Python whose packages the bill of materials names; default: .venv's.",
    )  # fmt: skip
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        try:
            made = release(asked.out.resolve(), asked.tested.absolute(), Path(work))
        except ReleaseError as error:
            sys.exit(f"release: {error}")
    for path in made:
        sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
