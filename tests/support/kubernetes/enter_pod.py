"""Run below `unshare --mount --pid --fork`: build the root that a pod's container has, and become its first process.

The root is this machine's, read-only, with the mounts of the manifest and nothing else that can be written; the process
has the user and group of the manifest and no capability. It reads its order from the file that it is given.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

DEVICES = ("null", "zero", "full", "random", "urandom", "tty")


def main() -> None:
    order = json.loads(Path(sys.argv[1]).read_text())
    if order["has_own_network"]:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    root = _root(Path(order["folder"]))
    for one in sorted(order["mounts"], key=lambda one: str(one["at"])):
        _mounted(root, one, order["group"])
    _mount("-o", "remount,ro", str(root))
    os.chroot(root)
    os.chdir(order["home"])
    user, group = str(order["user"]), str(order["group"])
    nothing = ["--inh-caps=-all", "--bounding-set=-all", "--ambient-caps=-all", "--no-new-privs"]
    words = ["setpriv", "--reuid", user, "--regid", group, "--clear-groups", *nothing, *order["words"]]
    os.execvpe("/usr/bin/setpriv", words, order["env"])


def _root(folder: Path) -> Path:
    """This machine's files below `folder`, with fresh /proc, /dev and /tmp; what is changed in it stays in memory."""
    _mount("-t", "tmpfs", "pod", str(folder))
    upper, work, root = (folder / name for name in ("upper", "work", "root"))
    for part in (upper, work, root):
        part.mkdir()
    _mount("-t", "overlay", "pod", "-o", f"lowerdir=/,upperdir={upper},workdir={work}", str(root))
    _mount("-t", "proc", "proc", str(root / "proc"))
    _mount("-t", "sysfs", "-o", "ro", "sysfs", str(root / "sys"))
    _mount("-t", "tmpfs", "-o", "mode=755", "dev", str(root / "dev"))
    for name in DEVICES:
        (root / "dev" / name).touch()
        _mount("--bind", f"/dev/{name}", str(root / "dev" / name))
    python = Path(sys.base_prefix)  # an image's Python may be read by all; this machine's may lie in root's home
    for part in (python, *python.parents):
        (root / part.relative_to("/")).chmod(0o755)
    return root


def _mounted(root: Path, one: dict[str, Any], group: int) -> None:
    at = root / str(one["at"]).lstrip("/")
    at.mkdir(parents=True, exist_ok=True)
    if one["folder"] is not None:
        _mount("--bind", one["folder"], str(at))
    else:
        _mount("-t", "tmpfs", "-o", f"size={one['bytes']},mode=0777", "volume", str(at))
    for name, text in one["files"].items():
        file = at / name
        file.write_text(text)
        file.chmod(0o440)
        os.chown(file, 0, group)
    if one["is_read_only"]:
        _mount("-o", "remount,bind,ro", str(at))


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


if __name__ == "__main__":
    main()
