"""`python -m tests.deploy.crds.write FILE.yaml NAME` writes NAME.json here, from a CustomResourceDefinition."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

_DROPPED = {"description", "x-kubernetes-list-map-keys", "x-kubernetes-list-type", "x-kubernetes-map-type"}


def schema_of(definition: dict[str, Any]) -> Any:
    """The schema of its newest served version."""
    version = next(one for one in reversed(definition["spec"]["versions"]) if one["served"])
    schema = _strict(version["schema"]["openAPIV3Schema"])
    schema["properties"] |= {"metadata": {"type": "object"}}
    schema["properties"].pop("status", None)
    return schema


def _strict(part: Any) -> Any:
    if isinstance(part, list):
        return [_strict(one) for one in part]
    if not isinstance(part, dict):
        return part
    found = {name: _strict(one) for name, one in part.items() if name not in _DROPPED or isinstance(one, dict)}
    if found.pop("x-kubernetes-int-or-string", False):
        return {"anyOf": [{"type": "integer"}, {"type": "string"}]}
    if "properties" in found and found.get("type") == "object" and "additionalProperties" not in found:
        found["additionalProperties"] = False
    return found


def main() -> None:
    definition = yaml.safe_load(Path(sys.argv[1]).read_text())
    text = json.dumps(schema_of(definition), separators=(",", ":"), sort_keys=True)
    (Path(__file__).parent / f"{sys.argv[2]}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
