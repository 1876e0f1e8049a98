"""The last commit as files, with modes and times that do not depend on who builds it, where or when."""

from __future__ import annotations

import gzip
import subprocess
import tarfile
from io import BytesIO
from pathlib import Path


class ReleaseError(Exception):
    """Raised when a release cannot be made; the text says what to do."""


def run(*command: str | Path, cwd: Path | None = None, given: bytes | None = None) -> bytes:
    """What a program writes to stdout. Raises `ReleaseError` with all that it wrote."""
    done = subprocess.run([str(word) for word in command], cwd=cwd, input=given, capture_output=True, check=False)
    if done.returncode:
        said = (done.stdout + done.stderr).decode(errors="replace").strip()
        raise ReleaseError(f"{Path(command[0]).name}: exit code {done.returncode}\n{said}")
    return done.stdout


def committed_at(root: Path) -> int:
    """When the last commit was made, in seconds. Raises `ReleaseError` where something is not committed."""
    if changed := run("git", "status", "--porcelain", cwd=root).decode():
        raise ReleaseError(f"commit or remove these first, a release is of the last commit:\n{changed}")
    return int(run("git", "log", "-1", "--format=%ct", cwd=root))


def export(root: Path, target: Path) -> None:
    """Write the last commit below `target`. A checkout's own modes follow its owner's umask, and it has other files."""
    target.mkdir(parents=True)
    archive = run("git", "-c", "tar.umask=0022", "archive", "--format=tar", "HEAD", cwd=root)
    run("tar", "-xpf", "-", cwd=target, given=archive)


def unpack(sdist: Path, target: Path) -> Path:
    """The folder in it. Modes are those of the archive, whatever the umask."""
    target.mkdir(parents=True)
    run("tar", "-xpzf", sdist, cwd=target)
    (folder,) = target.iterdir()
    return folder


def same_bytes(sdist: Path, time: int) -> None:
    """Write the archive again: in the order of names, with one owner, plain modes and `time` everywhere."""
    with tarfile.open(sdist) as archive:
        members = [(one, _content(archive, one)) for one in archive.getmembers()]
    plain = BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for member, content in sorted(members, key=lambda both: both[0].name):
            archive.addfile(_plain(member, time), BytesIO(content))
    with sdist.open("wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=time) as packed:
        packed.write(plain.getvalue())


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """Its bytes; none of a folder. Raises `ReleaseError` for a link, which other systems cannot unpack."""
    if not (member.isfile() or member.isdir()):
        raise ReleaseError(f"{member.name} is neither a file nor a folder: a source distribution has no links")
    file = archive.extractfile(member)
    return file.read() if file else b""


def _plain(member: tarfile.TarInfo, time: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(member.name)
    info.type, info.size, info.mtime = member.type, member.size, time
    info.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
    return info
