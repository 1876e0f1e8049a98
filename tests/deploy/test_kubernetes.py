"""The manifests of deploy/k8s: Kubernetes and KEDA take them, and all that they name exists and fits together."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import typer.main

from rollstream.producer.cli.app import app
from rollstream.producer.cli.observe import DEFAULT_PORT
from rollstream.producer.observe.backlog import backlog_of
from rollstream.producer.observe.exporter import BACKLOG_PATH
from rollstream.schemas.hashes.history import Rate
from rollstream.transport.redis.urls import DEFAULT_PORT as REDIS_PORT
from rollstream.transport.redis.urls import SENTINEL_PORT
from rollstream.worker.operations.health import LIVE, READY, STARTUP
from rollstream.worker.startup.command_line import read_settings
from tests.deploy import crds
from tests.deploy.promql import asked, known_series
from tests.support.kubernetes.manifests import (
    MISSING,
    OVERLAYS,
    command,
    container,
    environment,
    named,
    of_kind,
    pods,
    rendered,
)
from tests.support.kubernetes.pods import K8S
from tests.support.worker_process import ROOT

OLDEST, NEWEST = "1.31", "1.37"
"""Releases of Kubernetes that the manifests are for."""
PUBLISHING_S = 15
"""What a worker may take after its grace period: answers to publish, jobs to give back, an engine to end."""
OURS = ("rollstream-worker", "rollstream-exporter")

pytestmark = [
    pytest.mark.skipif(command() is None, reason=MISSING),
    pytest.mark.parametrize("overlay", OVERLAYS),
]


def problem(manifest: dict[str, Any], release: str = NEWEST) -> str:
    """What is wrong with it; empty if nothing is."""
    if crds.has_schema(manifest):
        return "; ".join(crds.problems(manifest))
    try:
        kubernetes_validate.validate(manifest, release, strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"{'.'.join(map(str, error.path))}: {error.message}"
    return ""


def worker(overlay: str) -> dict[str, Any]:
    return dict(pods(overlay))["rollstream-worker"]


def exporter(overlay: str) -> dict[str, Any]:
    return dict(pods(overlay))["rollstream-exporter"]


def triggers(overlay: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = named(overlay, "ScaledObject", "rollstream-worker")["spec"]["triggers"]
    return found


@pytest.mark.parametrize("release", [pytest.param(OLDEST, marks=pytest.mark.large), NEWEST])
def test_kubernetes_keda_and_prometheus_operator_take_every_object(overlay: str, release: str) -> None:
    found = {f"{one['kind']} {one['metadata']['name']}": problem(one, release) for one in rendered(overlay)}

    assert len(found) > 8
    assert {where: what for where, what in found.items() if what} == {}


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("Deployment", "spec.template.spec.containers.0.readinessProb"),
        ("ScaledObject", "spec.coolDownPeriod"),
        ("ScaledObject", "spec.advanced.horizontalPodAutoscalerConfig.behavior.scaleDown.stabilisationWindowSeconds"),
        ("NetworkPolicy", "spec.ingres"),
    ],
)
def test_a_field_that_does_not_exist_would_be_seen(overlay: str, kind: str, path: str) -> None:
    manifest = copy.deepcopy(of_kind(overlay, kind)[0])
    part: Any = manifest
    *way, last = path.split(".")
    for step in way:
        part = part[int(step) if step.isdigit() else step]
    part[last] = 1

    assert last in problem(manifest)


def test_scalers_get_the_parameters_that_they_know(overlay: str) -> None:
    for trigger in triggers(overlay):
        required, others = crds.TRIGGERS[trigger["type"]]
        assert required <= trigger["metadata"].keys() <= required | others
        assert all(isinstance(value, str) for value in trigger["metadata"].values())
        assert trigger["metricType"] == "AverageValue", "the number does not depend on how many workers there are"


def test_scaling_asks_the_exporter_for_a_number_that_it_gives(overlay: str) -> None:
    (trigger,) = triggers(overlay)
    url = urlsplit(trigger["metadata"]["url"])
    service = named(overlay, "Service", "rollstream-exporter")
    told = backlog_of(Rate(), tokens=9, groups=1, waiting=1, pending=0, workers=0, assumed=1.0)

    assert url.hostname == f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc"
    assert (url.port, url.path) == (service["spec"]["ports"][0]["port"], BACKLOG_PATH)
    assert isinstance(told.json("p", paused=False)[trigger["metadata"]["valueLocation"]], float)
    assert float(trigger["metadata"]["activationTargetValue"]) == 0


def test_prometheus_is_asked_for_metrics_that_exist_of_the_policy_that_is_served(overlay: str) -> None:
    patch = (K8S / "components" / "keda-prometheus" / "trigger.yaml").read_text()
    query = re.search(r"query: >-\n(.*?)\n +threshold", patch, re.DOTALL)
    assert query is not None
    series = asked(query[1])

    assert {one.name for one in series} == {"rollstream_backlog_seconds", "rollstream_workers"}
    known = known_series()
    for one in series:
        labels = dict(one.matchers)
        assert labels.keys() <= known[one.name] | {"policy"}
        assert labels["policy"] == environment(overlay, worker(overlay))["ROLLSTREAM_POLICY"]


def test_nothing_is_scaled_where_nothing_is_known_and_all_goes_when_all_is_done(overlay: str) -> None:
    spec = named(overlay, "ScaledObject", "rollstream-worker")["spec"]

    assert "replicas" not in named(overlay, "Deployment", "rollstream-worker")["spec"], "an apply would undo KEDA's"
    assert spec["scaleTargetRef"]["name"] == "rollstream-worker"
    assert spec["minReplicaCount"] == 0
    assert spec["maxReplicaCount"] == {"one-gpu": 1, "many": 16, "spot": 32}[overlay]
    assert spec["cooldownPeriod"] >= spec["pollingInterval"]
    # KEDA stops workers on an error if it may fall back to none.
    assert spec["fallback"]["replicas"] == 1
    assert spec["fallback"]["behavior"] == "currentReplicasIfHigher"


def test_the_worker_takes_every_setting_of_its_pod(
    overlay: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pod = worker(overlay)
    told = {name: value for name, value in environment(overlay, pod).items() if name.startswith("ROLLSTREAM_")}
    mounts = tuple(mount["mountPath"] for mount in container(pod)["volumeMounts"])
    for at in mounts:
        (tmp_path / at.strip("/")).mkdir(parents=True)
    for file in ("password", "ca.crt"):
        (tmp_path / "etc/rollstream/redis" / file).write_text("x")
    told = {name: f"{tmp_path}{value}" if value.startswith(mounts) else value for name, value in told.items()}
    for name, value in told.items():
        monkeypatch.setenv(name, value)

    shown = read_settings([]).shown()

    assert len(told) > 10
    settings = {name: _written(shown[name.removeprefix("ROLLSTREAM_").lower()]) for name in told}
    assert settings == {name: _written(value) for name, value in told.items()}


def _written(value: Any) -> str:
    return str(float(value)) if str(value).replace(".", "", 1).isdigit() else str(value)


def test_the_exporter_takes_every_setting_and_flag_of_its_pod(overlay: str) -> None:
    pod = exporter(overlay)
    commands: Any = typer.main.get_command(app)
    options = commands.commands["exporter"].params
    variables = {one.envvar for one in options}
    flags = {flag for one in options for flag in one.opts}

    assert container(pod)["command"] == ["rollstream"]
    assert container(pod)["args"][0] == "exporter"
    assert {word for word in container(pod)["args"] if word.startswith("--")} <= flags
    assert {name for name in environment(overlay, pod) if name.startswith("ROLLSTREAM_")} <= variables


def test_each_port_is_the_one_at_which_somebody_listens(overlay: str) -> None:
    ports = {"rollstream-worker": environment(overlay, worker(overlay))["ROLLSTREAM_METRICS_PORT"]}
    args = container(exporter(overlay))["args"]
    ports["rollstream-exporter"] = args[args.index("--port") + 1]

    assert ports["rollstream-exporter"] == str(DEFAULT_PORT)
    for name, pod in pods(overlay):
        if name in OURS:
            (port,) = container(pod)["ports"]
            assert (port["name"], str(port["containerPort"])) == ("metrics", ports[name])
            (ingress,) = named(overlay, "NetworkPolicy", name)["spec"]["ingress"]
            assert [str(one["port"]) for one in ingress["ports"]] == [ports[name]]


def test_redis_and_its_sentinels_and_dns_are_reached(overlay: str) -> None:
    for name in OURS:
        rules = named(overlay, "NetworkPolicy", name)["spec"]["egress"]

        reached = {one["port"] for rule in rules for one in rule["ports"] if one["protocol"] == "TCP"}

        assert {REDIS_PORT, SENTINEL_PORT, 53} <= reached


def test_probes_ask_for_what_the_worker_answers(overlay: str) -> None:
    one = container(worker(overlay))
    asked_of = {name: one[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}

    assert {name: get["path"] for name, get in asked_of.items()} == {
        "startup": STARTUP, "readiness": READY, "liveness": LIVE,
    }  # fmt: skip
    assert {get["port"] for get in asked_of.values()} == {"metrics"}
    start = one["startupProbe"]["periodSeconds"] * one["startupProbe"]["failureThreshold"]
    assert start < named(overlay, "Deployment", "rollstream-worker")["spec"]["progressDeadlineSeconds"]


def test_a_pod_has_longer_to_end_than_its_worker_to_drain(overlay: str) -> None:
    pod = worker(overlay)
    grace_s = float(environment(overlay, pod)["ROLLSTREAM_GRACE_S"])

    assert pod["spec"]["terminationGracePeriodSeconds"] >= grace_s + PUBLISHING_S


def test_no_pod_has_more_rights_than_it_needs(overlay: str) -> None:
    (uid,) = re.findall(r"--uid (\d+)", (ROOT / "Dockerfile").read_text())
    for name, pod in pods(overlay):
        spec, one = pod["spec"], container(pod)
        assert (spec["automountServiceAccountToken"], spec["enableServiceLinks"]) == (False, False), name
        user = spec["securityContext"]
        assert user["runAsNonRoot"], name
        assert user["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert one["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        }, name  # fmt: skip
        if name in OURS:
            assert {user["runAsUser"], user["runAsGroup"], user["fsGroup"]} == {int(uid)}, name


def test_secrets_are_files_and_never_variables(overlay: str) -> None:
    for name, pod in pods(overlay):
        told = {variable: value for variable, value in environment(overlay, pod).items() if "PASSWORD" in variable}
        assert all(variable.endswith("_FILE") for variable in told), name
        mounts = {one["name"]: one["mountPath"] for one in container(pod)["volumeMounts"]}
        (secret,) = [one["name"] for one in pod["spec"]["volumes"] if "secret" in one]
        files = [value for value in environment(overlay, pod).values() if value.startswith("/etc/rollstream")]
        assert all(file.startswith(f"{mounts[secret]}/") for file in files), name


def test_every_volume_is_mounted_and_every_mount_has_its_volume(overlay: str) -> None:
    for kind in of_kind(overlay, "Deployment", "StatefulSet"):
        pod = kind["spec"]["template"]
        volumes = [one["name"] for one in pod["spec"]["volumes"]]
        volumes += [one["metadata"]["name"] for one in kind["spec"].get("volumeClaimTemplates", [])]
        assert sorted(volumes) == sorted(one["name"] for one in container(pod)["volumeMounts"])


def test_selectors_find_pods_of_the_overlay_and_prometheus_its_ports(overlay: str) -> None:
    labels = {name: pod["metadata"]["labels"].items() for name, pod in pods(overlay)}
    selectors = {
        f"{one['kind']} {one['metadata']['name']}": one["spec"].get("podSelector") or one["spec"]["selector"]
        for one in of_kind(overlay, "NetworkPolicy", "PodDisruptionBudget", "Service", "PodMonitor")
    }
    for where, selector in selectors.items():
        wanted = selector.get("matchLabels", selector).items()
        assert any(wanted <= of_pod for of_pod in labels.values()), where
    for monitor in of_kind(overlay, "PodMonitor"):
        watched = [pod for name, pod in pods(overlay) if name in OURS]
        ports = {port["name"] for pod in watched for port in container(pod)["ports"]}
        assert {one["port"] for one in monitor["spec"]["podMetricsEndpoints"]} == ports
        assert all(
            label in pod["metadata"]["labels"] for pod in watched for label in monitor["spec"]["podTargetLabels"]
        )


def test_all_is_in_one_namespace_and_of_one_policy(overlay: str) -> None:
    namespaces = {one["metadata"].get("namespace") for one in rendered(overlay) if one["kind"] != "Namespace"}
    policies = {pod["metadata"]["labels"]["policy"] for name, pod in pods(overlay) if name in OURS}

    assert namespaces == {"rollstream"}
    assert len(policies) == 1


def test_images_are_named_with_their_tag(overlay: str) -> None:
    images = {name: container(pod)["image"] for name, pod in pods(overlay)}

    assert all(re.fullmatch(r"[\w./-]+:[\w.-]+", image) for image in images.values()), images
    assert images["rollstream-worker"] != images["rollstream-exporter"]
