"""What set-up installs has exact versions: of all that pyproject.toml asks for, and nothing that tells a place."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.worker_process import ROOT

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = ("cpu", "embedded", "dev", "example", "observe", "otel", "weights")
"""Which extras tools/setup.sh installs."""
ELSEWHERE = {"torch"}
"""Its version is that of tools/cpu_torch.sh."""
PYTHON = {"python_version": "3.11", "sys_platform": "linux", "platform_machine": "x86_64"}
LINES = (ROOT / "tools" / "constraints.txt").read_text().splitlines()


def test_a_line_is_a_name_and_a_version() -> None:
    assert [line for line in LINES if not re.fullmatch(r"#.*|[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line)] == []


def test_every_requirement_has_a_version_that_satisfies_it() -> None:
    extras = [requirement for extra in EXTRAS for requirement in PROJECT["optional-dependencies"][extra]]
    asked = [Requirement(text) for text in (*PROJECT["dependencies"], *extras)]
    exact = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in LINES)}

    unmet = [
        str(one)
        for one in asked
        if one.name not in ELSEWHERE and (one.marker is None or one.marker.evaluate(dict(PYTHON)))
        if not one.specifier.contains(exact.get(canonicalize_name(one.name), "0"))
    ]
    assert unmet == [], "renew tools/constraints.txt: make constraints"


def test_set_up_installs_these_extras_within_these_versions() -> None:
    script = (ROOT / "tools" / "setup.sh").read_text()

    assert f"'.[{','.join(EXTRAS)}]'" in script
    assert "--constraint $constraints" in script


@pytest.mark.parametrize("extra", ["docs", "release"])
def test_an_extra_with_an_environment_of_its_own_has_exact_versions_too(extra: str) -> None:
    lines = (ROOT / "tools" / f"constraints-{extra}.txt").read_text().splitlines()
    exact = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}
    asked = [Requirement(text) for text in PROJECT["optional-dependencies"][extra]]

    unmet = [str(one) for one in asked if not one.specifier.contains(exact.get(canonicalize_name(one.name), "0"))]
    assert unmet == [], f"renew it: tools/extra_env.sh {extra} --newest"
    assert [line for line in lines if not re.fullmatch(r"#.*|[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line)] == []
