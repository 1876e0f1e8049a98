"""A built image as a container runs it, without a container engine: its user, a read-only root, no capabilities."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes.process_one import ProcessOne

WRITABLE = ("/tmp", "/home/worker/.cache")
"""Where a container may write, beside /dev/shm, as the Dockerfile says and docker-compose.yml mounts.

deploy/k8s mounts more: all of /home/worker, and a /weights-cache.
"""

_AS_DOCKER_MOUNTS = "rw,noexec,nosuid,nodev,mode=1777"
_DEVICES = ("null", "zero", "full", "random", "urandom")


@dataclass(frozen=True)
class Image:
    """Where its files are, and its configuration as the OCI has it."""

    name: str
    root: Path
    config: Mapping[str, Any]

    @property
    def labels(self) -> dict[str, str]:
        return dict(self.config["Labels"])


def buildah(*args: str) -> str:
    return subprocess.run(["buildah", *args], check=True, capture_output=True, text=True, timeout=300).stdout.strip()


@contextmanager
def mounted(flavour: str) -> Iterator[Image]:
    """The files of `rollstream-worker:FLAVOUR`; fails where buildah has no such image."""
    name = f"localhost/rollstream-worker:{flavour}"
    if shutil.which("buildah") is None:
        pytest.fail("no buildah on PATH (Debian: apt install buildah)", pytrace=False)
    if name not in buildah("images", "--format", "{{.Name}}:{{.Tag}}").split():
        pytest.fail(f"no image {name} in buildah (docker's are not seen): make image FLAVOUR={flavour}", pytrace=False)
    container = buildah("from", "--pull-never", name)
    try:
        inspected = json.loads(buildah("inspect", "--type", "image", name))
        yield Image(name, Path(buildah("mount", container)), inspected["OCIv1"]["config"])
    finally:
        buildah("rm", container)


def started(
    image: Image,
    args: Sequence[str],
    log: Path,
    *,
    env: Mapping[str, str] | None = None,
    volumes: Mapping[str, Path] | None = None,
    entrypoint: Sequence[str] | None = None,
) -> ProcessOne:
    """What `docker run --read-only --cap-drop ALL --security-opt no-new-privileges --network host` would start.

    `volumes`: places in the container, and the folders of this machine that lie there, read-only.
    """
    entry = list(image.config["Entrypoint"] if entrypoint is None else entrypoint)
    inside = [*_as_user(image, env or {}), *entry, *args]
    script = "\n".join(["set -eu", *_mounts(image.root, volumes or {}), 'exec chroot "$@"'])
    return ProcessOne(["sh", "-c", script, "sh", str(image.root), *inside], log)


def _mounts(root: Path, volumes: Mapping[str, Path]) -> Iterator[str]:
    """Commands of a shell that alone sees what they mount."""
    yield f"mount --bind {root} {root}"
    for place, folder in volumes.items():
        (root / place.lstrip("/")).mkdir(parents=True, exist_ok=True)
        yield f"mount --bind {folder} {root}{place}"
        yield f"mount -o remount,bind,ro {root}{place}"
    for place in WRITABLE:
        yield f"mount -t tmpfs -o {_AS_DOCKER_MOUNTS} tmpfs {root}{place}"
    yield f"mount -t proc proc {root}/proc"
    yield f"mount --bind /sys {root}/sys; mount -o remount,bind,ro {root}/sys"  # vLLM counts cores there
    yield f"mount -t tmpfs -o mode=755 tmpfs {root}/dev"
    for device in _DEVICES:
        yield f"touch {root}/dev/{device}; mount --bind /dev/{device} {root}/dev/{device}"
    yield f"mkdir {root}/dev/shm; mount -t tmpfs -o {_AS_DOCKER_MOUNTS} tmpfs {root}/dev/shm"
    yield f"mount -o remount,bind,ro {root}"


def _as_user(image: Image, env: Mapping[str, str]) -> list[str]:
    user, _, group = image.config["User"].partition(":")
    variables = dict(line.split("=", 1) for line in image.config["Env"]) | dict(env)
    return [
        *("env", "-i", f"--chdir={image.config['WorkingDir']}"),
        *(f"{name}={value}" for name, value in variables.items()),
        *("setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"),
        *("--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"),
    ]  # fmt: skip
