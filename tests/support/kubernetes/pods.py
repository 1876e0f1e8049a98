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


def manifest_of(file: Path, kind: str) -> dict[str, Any]:
    """The first of a file that is of this kind."""
    found: dict[str, Any] = next(one for one in yaml.safe_load_all(file.read_text()) if one["kind"] == kind)
    return found


def can_be_run() -> bool:
    """Whether this process may make namespaces and mounts."""
    tried = ["unshare", *_apart(True), "true"]
    return sys.platform == "linux" and os.geteuid() == 0 and subprocess.run(tried, check=False).returncode == 0


class Pod:
    """The container of a Deployment or a StatefulSet, with the manifest's volumes; what it runs is ours."""

    def __init__(
        self,
        manifest: Mapping[str, Any],
        words: Sequence[str],
        *,
        env: Mapping[str, str],
        folders: Mapping[str, Path] | None = None,
        files: Mapping[str, Mapping[str, str]],
        has_own_network: bool = False,
    ) -> None:
        """`env` wins over the manifest's. By volume: `folders` for claims, `files` for secrets and configuration."""
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
            "mounts": self._mounts(folders or {}, files),
            "has_own_network": has_own_network,
            "env": {"PATH": os.environ["PATH"], "PYTHONUNBUFFERED": "1", **told, **env},
            "words": list(words),
        }
        self._order.write_text(json.dumps(order))
        self.process = subprocess.Popen(
            [
                "unshare",
                *_apart(has_own_network),
                sys.executable,
                "-m",
                "tests.support.kubernetes.enter_pod",
                self._order,
            ],
            cwd=ROOT,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=die_with_parent(),
        )

    def _mounts(self, folders: Mapping[str, Path], files: Mapping[str, Mapping[str, str]]) -> list[dict[str, Any]]:
        volumes = {one["name"]: one for one in self._spec["volumes"]}
        return [
            {
                "at": one["mountPath"],
                "folder": folders.get(one["name"]) and str(folders[one["name"]]),
                "bytes": nbytes(volumes.get(one["name"], {}).get("emptyDir", {}).get("sizeLimit", "64Mi")),
                "files": files.get(one["name"], {}),
                "is_read_only": one.get("readOnly", False),
            }
            for one in self._container["volumeMounts"]
        ]

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
        inside = ["nsenter", "--target", str(self.first_process), "--mount", "--pid", "--net", "--root", "--wd"]
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


def _apart(has_own_network: bool) -> list[str]:
    return ["--mount", "--pid", "--fork", *["--net"] * has_own_network]


def nbytes(quantity: str) -> int:
    """`8Gi` as a number."""
    number, unit = re.fullmatch(r"(\d+)([KMG]i)", quantity).groups()  # type: ignore[union-attr] # a manifest's own
    return int(number) * _UNITS[unit]
