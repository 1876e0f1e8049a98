"""What `kubectl apply --kustomize` would send of each overlay, by kubectl's own kustomize, which asks no cluster."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from typing import Any

import yaml

from tests.support.kubernetes.pods import K8S

OVERLAYS = sorted(path.name for path in (K8S / "overlays").iterdir())
MISSING = "no kubectl or kustomize on PATH: kubernetes.io/docs/tasks/tools says how to get kubectl (1.31 or newer)"
"""Why a test that renders is skipped."""
Manifest = dict[str, Any]


def command() -> list[str] | None:
    """What renders a folder; None if this machine has neither."""
    if shutil.which("kustomize"):
        return ["kustomize", "build"]
    return ["kubectl", "kustomize"] if shutil.which("kubectl") else None


@cache
def rendered(overlay: str) -> tuple[Manifest, ...]:
    """The objects of an overlay, or of any folder by its absolute path."""
    words = command()
    assert words is not None
    done = subprocess.run([*words, str(K8S / "overlays" / overlay)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def of_kind(overlay: str, *kinds: str) -> list[Manifest]:
    return [one for one in rendered(overlay) if one["kind"] in kinds]


def named(overlay: str, kind: str, name: str) -> Manifest:
    (found,) = [one for one in of_kind(overlay, kind) if one["metadata"]["name"] == name]
    return found


def pods(overlay: str) -> Iterator[tuple[str, Manifest]]:
    """The pods that the overlay makes, by the name of what makes them."""
    for one in of_kind(overlay, "Deployment", "StatefulSet"):
        yield one["metadata"]["name"], one["spec"]["template"]


def container(pod: Manifest) -> Manifest:
    (found,) = pod["spec"]["containers"]
    return dict(found)


def environment(overlay: str, pod: Manifest) -> dict[str, str]:
    """The variables of the pod's container, as the kubelet would set them."""
    one = container(pod)
    told = dict[str, str]()
    for source in one.get("envFrom", []):
        told |= named(overlay, "ConfigMap", source["configMapRef"]["name"])["data"]
    for entry in one.get("env", []):
        path = entry.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
        label = None if path is None else path.removeprefix("metadata.labels['").removesuffix("']")
        told[entry["name"]] = entry["value"] if label is None else pod["metadata"]["labels"][label]
    return told
