"""What docs/kubernetes.md shows is what the manifests are."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from rollstream.transport.acl import Role
from tests.deploy.test_kubernetes import problem
from tests.support.kubernetes.manifests import MISSING, command, container, environment, pods, rendered
from tests.support.kubernetes.pods import K8S
from tests.support.worker_process import ROOT

PAGE = (ROOT / "docs" / "kubernetes.md").read_text()

pytestmark = pytest.mark.skipif(command() is None, reason=MISSING)


def own_overlay(heading: str, place: Path) -> str:
    """The overlay that the page shows in this part, beside the others in a copy at `place`."""
    part = PAGE.partition(f"# {heading}\n")[2].partition("\n## ")[0]
    block = re.findall(r"```yaml\n(.*?)```", part, re.DOTALL)[0]
    own = shutil.copytree(K8S, place / "k8s") / "overlays" / "own"
    own.mkdir()
    (own / "kustomization.yaml").write_text(block)
    return str(own)


def test_no_command_of_the_page_has_a_password_among_its_arguments() -> None:
    assert "--from-literal" not in PAGE
    assert "--from-file=password" in PAGE


def test_the_overlay_of_the_page_changes_what_it_says(tmp_path: Path) -> None:
    manifests = rendered(own_overlay("Your own overlay", tmp_path))

    worker = next(one for one in manifests if one["metadata"]["name"] == "rollstream-worker")["spec"]["template"]
    told = {one["name"]: one.get("value") for one in container(worker)["env"]}
    assert [what for one in manifests if (what := problem(one))] == []
    assert worker["metadata"]["labels"]["policy"] == "chat-7b"
    assert told["ROLLSTREAM_MAX_MODEL_LEN"] == "8192"
    assert container(worker)["image"] == "registry.mycompany.example/rollstream-worker:gpu"
    (config,) = [one["data"] for one in manifests if one["kind"] == "ConfigMap"]
    assert config["ROLLSTREAM_REDIS"] == "rediss://redis.mycompany.example:6380/0"
    assert config["ROLLSTREAM_REDIS_CA"] == "/etc/rollstream/redis/ca.crt"


@pytest.mark.parametrize("role", [Role.WORKER, Role.EXPORTER])
def test_the_patches_of_the_page_give_a_role_its_own_user_and_secret(role: Role, tmp_path: Path) -> None:
    own = own_overlay("A user of Redis for each role", tmp_path)

    pod = dict(pods(own))[f"rollstream-{role}"]

    assert [what for one in rendered(own) if (what := problem(one))] == []
    told = environment(own, pod)
    assert (urlsplit(told["ROLLSTREAM_REDIS"]).username, urlsplit(told["ROLLSTREAM_REDIS"]).password) == (
        f"{pod['metadata']['labels']['policy']}-{role}",
        None,
    )
    (volume,) = [one for one in pod["spec"]["volumes"] if one["name"] == "redis"]
    assert volume["secret"] == {"secretName": f"rollstream-redis-{role}", "defaultMode": 0o440}
    assert told["ROLLSTREAM_REDIS_PASSWORD_FILE"] == "/etc/rollstream/redis/password"
    mounts = [one["mountPath"] for one in container(pod)["volumeMounts"] if one["name"] == "redis"]
    assert mounts == ["/etc/rollstream/redis"]


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
