"""What is built and installed is one package of real files, which works beside a user's own files of any name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.support.worker_process import ROOT

PACKAGES = ("schemas", "transport", "producer", "worker")
USED = ("pyproject.toml", "README.md", "LICENSE")
"""What a wheel is made of besides."""
TRAINER = """
import subprocess, sys
import producer, schemas, transport, worker
from rollstream import Client, GenerationConfig

url, policy, *command = sys.argv[1:]
process = subprocess.Popen([*command, "--engine", "stub", "--redis", url, "--policy", policy])
try:
    with Client(url, policy=policy) as client:
        rollouts = client.submit([[5, 6], [7]], None, GenerationConfig(max_new_tokens=4)).result(timeout=60)
    print(tuple(rollouts.response_mask.shape), producer.MINE, schemas.MINE, transport.MINE, worker.MINE)
finally:
    process.terminate()
    print(process.wait())
"""


def quiet(*command: object, cwd: Path = ROOT) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def is_carried(path: Path) -> bool:
    """Whether a wheel must have it: code, and the files of the page."""
    return path.suffix in {".py", ".lua", ".typed"} or (path.is_file() and "assets" in path.parent.parts)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, and with this one's packages for what it depends on."""
    root = tmp_path_factory.mktemp("wheel")
    source = root / "source"
    for name in (*PACKAGES, "rollstream"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in USED:
        shutil.copy(ROOT / name, source)
    quiet(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", root, source)
    (wheel,) = root.glob("*.whl")
    environment = root / "environment"
    venv.create(environment, symlinks=True)
    python = environment / "bin" / "python"
    quiet(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", wheel)
    (packages,) = environment.glob("lib/python*/site-packages")
    ours = [entry for entry in sys.path if entry.endswith("site-packages")] or [sysconfig.get_path("purelib")]
    (packages / "dependencies.pth").write_text("\n".join(ours))
    return environment


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """A user's folder, with modules and packages that are called as ours are."""
    for name in ("schemas", "transport"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("MINE = 1")
    for name in ("producer", "worker"):
        (tmp_path / f"{name}.py").write_text("MINE = 1")
    (tmp_path / "train.py").write_text(TRAINER)
    return tmp_path


@pytest.mark.parametrize("command", [("bin/rollstream-worker",), ("bin/python", "-m", "rollstream.worker")], ids=len)
def test_a_batch_is_sampled_beside_files_of_our_packages_names(
    installed: Path, beside: Path, command: tuple[str, ...], redis_url: str, policy: str
) -> None:
    worker = [str(installed / command[0]), *command[1:]]

    told = quiet(installed / "bin" / "python", "train.py", redis_url, policy, *worker, cwd=beside)

    assert told.splitlines() == ["(2, 6) 1 1 1 1", "0"]


def test_the_wheel_carries_files_and_no_links_and_vllm_finds_the_plugin(installed: Path, tmp_path: Path) -> None:
    (folder,) = installed.glob("lib/python*/site-packages/rollstream")
    carried = {path.relative_to(folder) for path in folder.rglob("*") if is_carried(path)}
    wanted = {path.relative_to(ROOT) for name in PACKAGES for path in (ROOT / name).rglob("*") if is_carried(path)}
    find = (
        "from importlib.metadata import entry_points\n"
        "(plugin,) = entry_points(group='vllm.general_plugins', name='rollstream')\n"
        "print(plugin.load().__module__)"
    )

    assert not [path for path in folder.rglob("*") if path.is_symlink()]
    assert Path("producer/observe/web/assets/uplot/uplot.LICENSE") in wanted
    assert carried == wanted | {Path("__init__.py"), Path("__main__.py"), Path("py.typed"), Path("version.py")}
    told = quiet(installed / "bin" / "python", "-c", find, cwd=tmp_path)
    assert told.strip() == "rollstream.worker.engines.vllm.plugin"


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_imported_without_rollstream_says_how_it_is_imported(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import {name}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "from rollstream import" in done.stderr.splitlines()[-1]
