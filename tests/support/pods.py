"""The container of a manifest as a process of this machine: its user, no capability, a read-only root, its volumes.

Needs Linux and root. It is not a container: it has this machine's files and network, and neither seccomp nor limits.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from rollstream.producer.demo.embedded_redis import die_with_parent
from tests.support.worker_process import ROOT

K8S = ROOT / "deploy" / "k8s"
_UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def deployment(file: Path) -> dict[str, Any]:
    """The first Deployment of a file."""
    found: dict[str, Any] = next(one for one in yaml.safe_load_all(file.read_text()) if one["kind"] == "Deployment")
    return found


def can_be_run() -> bool:
    """Whether this process may make namespaces and mounts."""
    tried = ["unshare", "--mount", "--pid", "--fork", "true"]
    return sys.platform == "linux" and os.geteuid() == 0 and subprocess.run(tried, check=False).returncode == 0


class Pod:
    """One container of a Deployment. Its own files are the manifest's; what it runs, with which variables, is ours."""

    def __init__(
        self,
        manifest: Mapping[str, Any],
        words: Sequence[str],
        *,
        env: Mapping[str, str],
        folders: Mapping[str, Path],
        secret: Mapping[str, str],
    ) -> None:
        """`env` wins over the manifest's; `folders`: what claims have, by volume; others are empty."""
        self._spec = manifest["spec"]["template"]["spec"]
        (self._container,) = self._spec["containers"]
        self._folder = tempfile.mkdtemp(prefix="pod-")
        self._log = tempfile.NamedTemporaryFile(prefix="pod-", suffix=".log")  # noqa: SIM115 - lives as long as the pod
        self._order = Path(self._folder).with_suffix(".json")
        user = self._spec["securityContext"]
        told = {one["name"]: one["value"] for one in self._container.get("env", []) if "value" in one}
        order = {
            "folder": self._folder,
            "user": user["runAsUser"],
            "group": user["runAsGroup"],
            "home": told.get("HOME", "/"),
            "mounts": self._mounts(folders, secret),
            "env": {"PATH": os.environ["PATH"], "PYTHONUNBUFFERED": "1", **told, **env},
            "words": list(words),
        }
        self._order.write_text(json.dumps(order))
        self.process = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--fork", sys.executable, "-m", "tests.support.enter_pod", self._order],
            cwd=ROOT,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=die_with_parent(),
        )

    def _mounts(self, folders: Mapping[str, Path], secret: Mapping[str, str]) -> list[dict[str, Any]]:
        volumes = {one["name"]: one for one in self._spec["volumes"]}
        return [_mount(one, volumes[one["name"]], folders, secret) for one in self._container["volumeMounts"]]

    @property
    def log(self) -> str:
        return Path(self._log.name).read_text(errors="replace")

    @property
    def first_process(self) -> int:
        """The process that is number 1 inside, by its number here."""
        (child,) = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(child)

    def run(self, words: Sequence[str], timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """As `kubectl exec`, or a hook: beside process 1, as the container's user."""
        user = self._spec["securityContext"]
        inside = ["nsenter", "--target", str(self.first_process), "--mount", "--pid", "--root", "--wd"]
        as_user = ["--setuid", str(user["runAsUser"]), "--setgid", str(user["runAsGroup"])]
        return subprocess.run(
            [*inside, *as_user, *words], capture_output=True, text=True, check=False, timeout=timeout_s
        )

    def pre_stop(self, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """What the kubelet runs before it sends a signal."""
        return self.run(self._container["lifecycle"]["preStop"]["exec"]["command"], timeout_s)

    def end(self) -> None:
        """Nothing of it is left after this: its mounts go with its namespace."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, 9)
        self.process.wait()
        self._order.unlink(missing_ok=True)
        Path(self._folder).rmdir()


@contextlib.contextmanager
def running(pod: Pod) -> Iterator[Pod]:
    """Ended at the end of the block."""
    try:
        yield pod
    finally:
        pod.end()


def _mount(
    mount: Mapping[str, Any], volume: Mapping[str, Any], folders: Mapping[str, Path], secret: Mapping[str, str]
) -> dict[str, Any]:
    folder = folders.get(volume["name"])
    return {
        "at": mount["mountPath"],
        "folder": folder and str(folder),
        "bytes": nbytes(volume.get("emptyDir", {}).get("sizeLimit", "1Mi")),
        "files": dict(secret) if "secret" in volume else {},
        "is_read_only": mount.get("readOnly", False),
    }


def nbytes(quantity: str) -> int:
    """`8Gi` as a number."""
    number, unit = re.fullmatch(r"(\d+)([KMG]i)", quantity).groups()  # type: ignore[union-attr] # a manifest's own
    return int(number) * _UNITS[unit]
