"""What docs/kubernetes.md shows is what the manifests are."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.deploy.test_kubernetes import problem
from tests.support.manifests import command, container, environment, pods, rendered
from tests.support.pods import K8S
from tests.support.worker_process import ROOT

PAGE = (ROOT / "docs" / "kubernetes.md").read_text()

pytestmark = pytest.mark.skipif(command() is None, reason="needs kubectl or kustomize")


def test_the_overlay_of_the_page_changes_what_it_says(tmp_path: Path) -> None:
    copy = shutil.copytree(K8S, tmp_path / "k8s")
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    own = copy / "overlays" / "own"
    own.mkdir()
    (own / "kustomization.yaml").write_text(block)

    manifests = rendered(str(own))

    worker = next(one for one in manifests if one["metadata"]["name"] == "rollstream-worker")["spec"]["template"]
    told = {one["name"]: one.get("value") for one in container(worker)["env"]}
    assert [what for one in manifests if (what := problem(one))] == []
    assert worker["metadata"]["labels"]["policy"] == "chat-7b"
    assert told["ROLLSTREAM_MAX_MODEL_LEN"] == "8192"
    assert container(worker)["image"] == "registry.mycompany.example/rollstream-worker:gpu"
    (config,) = [one["data"] for one in manifests if one["kind"] == "ConfigMap"]
    assert config["ROLLSTREAM_REDIS"] == "rediss://redis.mycompany.example:6380/0"
    assert config["ROLLSTREAM_REDIS_CA"] == "/etc/rollstream/redis/ca.crt"


def test_the_page_names_every_place_where_a_worker_writes() -> None:
    worker = dict(pods("many"))["rollstream-worker"]
    empty = {one["name"] for one in worker["spec"]["volumes"] if "emptyDir" in one}
    writable = {one["mountPath"] for one in container(worker)["volumeMounts"] if not one.get("readOnly")}

    assert {one["mountPath"] for one in container(worker)["volumeMounts"] if one["name"] in empty} == writable
    rights = PAGE.partition("## Rights")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `([^`]+)`", rights, re.MULTILINE)) == writable


def test_the_page_has_the_numbers_of_the_manifests() -> None:
    for overlay in ("many", "spot"):
        worker = dict(pods(overlay))["rollstream-worker"]
        grace = environment(overlay, worker)["ROLLSTREAM_GRACE_S"]
        longest = worker["spec"]["terminationGracePeriodSeconds"]
        told = {"many": f"`ROLLSTREAM_GRACE_S`, {grace} s", "spot": f"In `spot` it is {grace} s of {longest}"}[overlay]
        assert told in PAGE
        assert overlay == "spot" or f"`terminationGracePeriodSeconds` ({longest})" in PAGE
