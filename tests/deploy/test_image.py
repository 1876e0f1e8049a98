"""What images are made of is pinned, and the Dockerfile finds all that it copies. None is built or run here."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import PurePosixPath
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.worker_process import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
STEPS = [line for line in DOCKERFILE.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PYTHON = {"python_version": "3.11", "sys_platform": "linux", "platform_machine": "x86_64"}
PINS = {"gpu": "tools/image/constraints-gpu.txt", "cpu": "tools/constraints.txt", "stub": "tools/constraints.txt"}


def needed_by(flavour: str) -> list[Requirement]:
    command = [sys.executable, "tools/image/requirements.py", flavour]
    told = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=30).stdout
    return [Requirement(line) for line in told.splitlines()]


def pins(path: str) -> dict[str, str]:
    lines = [line for line in (ROOT / path).read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line)] == []
    return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}


@pytest.mark.parametrize("flavour", PINS)
def test_all_that_an_image_needs_has_a_version_that_satisfies_it(flavour: str) -> None:
    exact = pins(PINS[flavour])
    of_script = () if flavour == "gpu" else ("torch",)  # its version is that of tools/cpu_torch.sh

    unmet = [
        str(one)
        for one in needed_by(flavour)
        if one.name not in of_script and (one.marker is None or one.marker.evaluate(dict(PYTHON)))
        if not one.specifier.contains(exact.get(canonicalize_name(one.name), "0"))
    ]
    assert unmet == [], "renew it: make image-pins, or make constraints"


def test_what_writes_the_list_of_parts_has_a_version() -> None:
    assert "cyclonedx-bom" in pins("tools/image/sbom.txt")


def test_each_image_can_answer_prometheus_serve_the_page_send_traces_and_read_deltas() -> None:
    extras = PROJECT["optional-dependencies"]
    for flavour in PINS:
        assert {str(one) for one in needed_by(flavour)} >= {
            str(Requirement(text)) for extra in ("observe", "otel", "weights") for text in extras[extra]
        }


def test_the_base_has_an_exact_version_and_every_stage_begins_with_it() -> None:
    assert re.match(r"ARG BASE=python:3\.11\.\d+-slim-\w+$", STEPS[0])
    froms = [step.split()[1] for step in STEPS if step.startswith("FROM ")]
    assert set(froms) == {"${BASE}", "dependencies"}


def test_every_file_that_is_copied_exists_and_is_sent_to_the_builder() -> None:
    sent = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [part for step in STEPS if re.match(r"COPY (?!--from)", step) for part in step.split()[1:-1]]

    assert len(copied) > 8
    for path in copied:
        assert (ROOT / path).exists(), path
        assert any(PurePosixPath(path).is_relative_to(one) for one in sent), path


def test_what_runs_is_a_user_without_rights_below_something_that_passes_signals_on() -> None:
    last = STEPS[max(index for index, step in enumerate(STEPS) if step.startswith("FROM ")) :]

    assert last[-4:] == [
        "USER 10001:10001",
        "WORKDIR /home/worker",
        "STOPSIGNAL SIGTERM",
        'ENTRYPOINT ["tini", "--", "rollstream-worker"]',
    ]
    assert not [step for step in last if "pip" in step]


def test_a_flavour_that_does_not_exist_is_refused() -> None:
    done = subprocess.run(
        ["bash", ROOT / "tools" / "image" / "build.sh"], env={"FLAVOUR": "tpu", "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (2, "image: FLAVOUR=tpu: not one of gpu, cpu, stub\n")
