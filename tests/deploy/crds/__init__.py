"""Schemas of what Kubernetes itself does not know, made of the definitions of the projects that do.

`scaledobject.json`: KEDA v2.20.2, config/crd/bases/keda.sh_scaledobjects.yaml. `podmonitor.json`: prometheus-operator
v0.93.0, example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml. Both projects are under the Apache
License 2.0; `write.py` leaves the descriptions out and refuses fields that are not defined, as `kubectl apply` does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

_FILES = {
    ("keda.sh/v1alpha1", "ScaledObject"): "scaledobject",
    ("monitoring.coreos.com/v1", "PodMonitor"): "podmonitor",
}

TRIGGERS = {
    "metrics-api": (
        {"url", "valueLocation", "targetValue"},
        {"activationTargetValue", "format", "unsafeSsl", "timeout", "aggregationType"},
    ),
    "prometheus": (
        {"serverAddress", "query", "threshold"},
        {"activationThreshold", "namespace", "ignoreNullValues", "unsafeSsl", "timeout"},
    ),
}
"""What each of KEDA's scalers must be told and may be, beside credentials: its schema takes any name
(pkg/scalers/metrics_api_scaler.go and prometheus_scaler.go of v2.20.2)."""


def has_schema(manifest: dict[str, Any]) -> bool:
    return (manifest["apiVersion"], manifest["kind"]) in _FILES


def problems(manifest: dict[str, Any]) -> list[str]:
    """What the definition refuses, with where."""
    name = _FILES[manifest["apiVersion"], manifest["kind"]]
    schema = json.loads((Path(__file__).parent / f"{name}.json").read_text())
    return [f"{error.json_path}: {error.message}" for error in Draft202012Validator(schema).iter_errors(manifest)]
