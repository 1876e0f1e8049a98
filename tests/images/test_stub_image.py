"""The stub's image as a container: its user and rights, its parts, signals to process 1 at any time, orphans."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rollstream import Client, GenerationConfig
from tests.images.container import Image, mounted, started
from tests.support.faults import Queue
from tests.support.processes.process_one import ProcessOne
from tests.support.worker_process import ROOT, wait_for

pytestmark = pytest.mark.large
NOBODY = "redis://127.0.0.1:1/0"
SETTINGS = ("--engine", "stub", "--heartbeat-s", "0.2", "--log-format", "console", "--log-level", "debug")
SHORT = GenerationConfig(max_new_tokens=8, ignore_eos=True)
LONG = GenerationConfig(max_new_tokens=4000, ignore_eos=True)


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    with mounted("stub") as image:
        yield image


def stub(image: Image, folder: Path, redis_url: str, policy: str, *flags: str) -> ProcessOne:
    return started(image, ["--policy", policy, "--redis", redis_url, *SETTINGS, *flags], folder / "log")


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: " ".join(value.split()) for name, _, value in (line.partition(":") for line in lines)}


def worker_in(container: ProcessOne) -> int:
    """The number of the one process below process 1."""
    wait_for(lambda: len(container.members()) == 2, 30, lambda: f"{container.members()}\n{container.log}")
    (worker,) = container.members().keys() - {container.pid}
    return worker


def wait_until_taken(redis_url: str, policy: str, worker: ProcessOne) -> None:
    with Queue(redis_url, policy) as queue:
        wait_for(lambda: bool(queue.holders()), 60, lambda: worker.log)


def test_a_worker_serves_and_drains_without_rights(tmp_path: Path, image: Image, redis_url: str, policy: str) -> None:
    with Client(redis_url, policy=policy) as client, stub(image, tmp_path, redis_url, policy) as container:
        assert len(list(client.submit([[5, 6]] * 4, None, SHORT).groups(timeout=60))) == 4
        for pid in (container.pid, worker_in(container)):
            seen = status(pid)
            rights = {seen[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
            assert (seen["Uid"], seen["Gid"]) == ("10001 10001 10001 10001",) * 2
            assert (seen["Groups"], seen["NoNewPrivs"], rights) == ("", "1", {"0" * 16})
        container.send(signal.SIGTERM)

        assert container.wait() == 0
        assert "Traceback" not in container.log


def test_nothing_is_written_but_where_it_may_be(tmp_path: Path, image: Image) -> None:
    tries = (
        "for d in / /opt/rollstream /home/worker /etc /tmp /home/worker/.cache /dev/shm; do touch $d/x && echo $d; done"
    )
    with started(image, ["-c", tries], tmp_path / "log", entrypoint=["sh"]) as container:
        container.wait()

        written = [line for line in container.log.splitlines() if line.startswith("/")]
        assert written == ["/tmp", "/home/worker/.cache", "/dev/shm"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("after_s", [0, 0.01, 0.03, 0.1, 0.3, 0.6, 1, 2])
def test_a_signal_to_process_1_ends_it_at_any_time(
    tmp_path: Path, image: Image, after_s: float, number: signal.Signals
) -> None:
    with stub(image, tmp_path, NOBODY, "p") as container:
        container.wait_until_it_has_a_child("tini")  # until then the kernel drops signals: tini has no handler yet
        time.sleep(after_s)  # the time is what is tested
        began = time.monotonic()
        container.send(number)

        assert container.wait(20) in {128 + number} | ({1} if number == signal.SIGINT else set())
        print(f"{number.name} after {after_s} s: ended {time.monotonic() - began:.2f} s later")  # noqa: T201 - a figure


def test_a_second_signal_ends_a_drain_at_once(tmp_path: Path, image: Image, redis_url: str, policy: str) -> None:
    slow = ("--stub-tokens-per-s", "20")
    with Client(redis_url, policy=policy) as client, stub(image, tmp_path, redis_url, policy, *slow) as container:
        client.submit([[5, 6]] * 4, None, LONG)
        wait_until_taken(redis_url, policy, container)
        container.send(signal.SIGTERM)
        container.wait_until_it_says("draining")
        container.send(signal.SIGTERM)

        assert container.wait(10) == 128 + signal.SIGTERM


def test_orphans_are_buried(tmp_path: Path, image: Image) -> None:
    with stub(image, tmp_path, NOBODY, "p") as container:
        container.wait_until_it_says("trying again")
        worker = worker_in(container)
        subprocess.run(["nsenter", "-t", str(container.pid), "-p", "sh", "-c", "sleep 1 & exec true"], check=True)
        wait_for(lambda: len(container.members()) == 3, 10, lambda: str(container.members()))

        wait_for(lambda: container.members().keys() == {container.pid, worker}, 10, lambda: str(container.members()))


@pytest.mark.parametrize("service", ["exporter", "web"])
def test_what_compose_starts_in_this_image_starts(tmp_path: Path, image: Image, redis_url: str, service: str) -> None:
    composed: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"][service]
    args = ["auto" if arg.isdecimal() or "PORT" in arg else arg for arg in composed["command"]]
    env = {"ROLLSTREAM_REDIS": redis_url, "ROLLSTREAM_POLICY": "p"}
    with started(image, args, tmp_path / "log", env=env, entrypoint=composed["entrypoint"]) as container:
        container.wait_until_it_says("http://")
        container.send(signal.SIGTERM)

        assert container.wait(20) == 0


def test_the_list_of_parts_is_what_is_installed_within_the_pins(image: Image) -> None:
    sbom = json.loads((image.root / "opt/rollstream/sbom.cdx.json").read_text())
    parts = {canonical(part["name"]): part["version"] for part in sbom["components"]}
    packages = image.root / "opt/rollstream/lib/python3.11/site-packages"
    installed = {canonical(path.name.split("-")[0]) for path in packages.glob("*.dist-info")}
    lines = (ROOT / "tools" / "constraints.txt").read_text().splitlines()
    pins = {canonical(name): version for name, _, version in (line.partition("==") for line in lines)}

    assert sbom["bomFormat"] == "CycloneDX"
    assert parts.keys() == installed
    assert "rollstream" in parts
    others = {name: version for name, version in parts.items() if name not in {"rollstream", "torch"}}
    assert others == {name: pins[name] for name in others}


def canonical(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def test_labels_say_what_it_is(image: Image) -> None:
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in image.labels.items()}
    version = (ROOT / "rollstream" / "version.py").read_text().split('"')[-2]

    assert (labels["version"], labels["licenses"]) == (version, "Apache-2.0")
    assert {"title", "description", "revision", "source", "base.name"} <= labels.keys()


def test_nothing_of_the_build_is_left(image: Image) -> None:
    packages = image.root / "opt/rollstream/lib/python3.11/site-packages"

    assert [name for name in ("pip", "cyclonedx_py") if (packages / name).exists()] == []
    places = (
        "build",
        "opt/sbom",
        "etc/pip.conf",
        "root/.cache",
        "root/.config",
        "var/cache/apt",
        "var/lib/apt/lists/*",
    )
    assert [str(found) for place in places for found in image.root.glob(place)] == []
