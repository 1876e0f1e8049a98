"""Containers of docker-compose.yml have few rights, no password in sight, and only variables that something reads."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml

from rollstream.producer.demo.embedded_redis import die_with_parent, free_port
from rollstream.producer.demo.redis_server import find_redis_server
from rollstream.schemas.environment import check_environment
from tests.support.kubernetes.pods import K8S, manifest_of
from tests.support.worker_process import ROOT, wait_for

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PROFILES = ("gpu", "cpu", "stub", "observe")
OURS = {name for name, service in SERVICES.items() if service["image"].startswith("rollstream-worker:")}
ROOT_IS_WRITTEN = {"prometheus"}
"""Compose copies an inline configuration into the container's root, which the daemon refuses if that is read-only."""
PASSWORD = "a\\b\"c $(d) %e #f'"


def compose() -> list[str]:
    """Compose 2, as a plugin of docker or by itself; skips where it is not there."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) is not None:
            told = subprocess.run([*command, "version", "--short"], capture_output=True, text=True, check=False).stdout
            if re.match(r"v?2\.", told):
                return command
    pytest.skip("no Compose 2 (Debian 13: apt install docker-compose; that of Debian 12 is Compose 1)")


@pytest.mark.parametrize("profile", PROFILES)
def test_compose_takes_each_profile(profile: str) -> None:
    done = subprocess.run(
        [*compose(), "--file", ROOT / "docker-compose.yml", "--profile", profile, "config", "--format", "json"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, "")
    services = json.loads(done.stdout)["services"]
    assert services.keys() == {name for name, one in SERVICES.items() if profile in one.get("profiles", [profile])}


def test_every_profile_is_looked_at() -> None:
    assert {profile for service in SERVICES.values() for profile in service.get("profiles", ())} == set(PROFILES)


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_no_container_has_rights_or_a_root_to_write_in(name: str) -> None:
    service = SERVICES[name]

    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service.get("read_only", False) == (name not in ROOT_IS_WRITTEN)
    assert "privileged" not in service


def test_every_image_of_others_has_an_exact_version_and_kubernetes_trial_redis_is_that_of_compose() -> None:
    others = {name: service["image"] for name, service in SERVICES.items() if name not in OURS}
    trial = manifest_of(K8S / "components" / "trial-redis" / "redis.yaml", "StatefulSet")
    (container,) = trial["spec"]["template"]["spec"]["containers"]

    assert [image for image in others.values() if not re.fullmatch(r"[\w/]+:v?\d+\.\d+\.\d+", image)] == []
    assert container["image"] == others["redis"]


@pytest.mark.parametrize("name", sorted(OURS))
def test_our_containers_can_write_where_the_image_says(name: str) -> None:
    service = SERVICES[name]
    mounts = {*service["tmpfs"], *(one.split(":")[1] for one in service.get("volumes", ()) if isinstance(one, str))}

    assert {"/tmp", "/home/worker/.cache"} <= mounts


@pytest.mark.parametrize("name", sorted(OURS))
def test_every_variable_that_a_container_gets_is_read_by_something(name: str) -> None:
    variables = {key: str(value) for key, value in SERVICES[name]["environment"].items()}

    assert len(variables) >= 3
    check_environment(variables)


def test_no_password_is_a_variable_or_an_argument() -> None:
    for name, service in SERVICES.items():
        for key, value in service.get("environment", {}).items():
            assert "PASSWORD" not in key or str(value).startswith("/run/secrets/"), f"{name}: {key}"
            assert not re.search(r"://[^/]*@", str(value)), f"{name}: {key}"
        told = " ".join(str(one) for key in ("command", "entrypoint") for one in service.get(key, ()))
        assert "PASSWORD" not in told, name
        assert "--requirepass" not in told, name


def test_secrets_are_files_that_git_ignores_and_each_is_used() -> None:
    used = {secret for service in SERVICES.values() for secret in service.get("secrets", ())}

    assert used == COMPOSE["secrets"].keys()
    for secret in COMPOSE["secrets"].values():
        assert re.fullmatch(r"\$\{\w+:-\./secrets/[\w-]+\}", secret["file"])
    assert "secrets/" in (ROOT / ".gitignore").read_text().splitlines()


@contextmanager
def redis_of_compose(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The command of the service `redis`, with folders of this test for those of the container."""
    (folder / "redis-password").write_text(PASSWORD + "\n")
    places = {
        "/run/secrets": str(folder),
        "/run/redis": str(folder),
        "exec redis-server": f"exec {find_redis_server()}",
    }
    command = [re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", arg).replace("$$", "$") for arg in SERVICES["redis"]["command"]]
    for place, here in places.items():
        command = [arg.replace(place, here) for arg in command]
    process = subprocess.Popen([*command, "--port", str(port)], cwd=folder, preexec_fn=die_with_parent())
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_redis_has_the_password_of_the_file_and_no_list_of_processes_shows_it(tmp_path: Path) -> None:
    def refused(password: str | None) -> str:
        with redis.Redis(port=port, password=password) as client:
            try:
                client.ping()
            except redis.RedisError as error:
                return type(error).__name__
        return ""

    port = free_port()
    with redis_of_compose(tmp_path, port) as process:
        wait_for(lambda: refused(PASSWORD) == "", 20, lambda: refused(PASSWORD))

        assert refused(None) == "AuthenticationError"
        assert PASSWORD not in Path(f"/proc/{process.pid}/cmdline").read_text()
        assert (tmp_path / "password.conf").stat().st_mode & 0o777 == 0o600
        with redis.Redis(port=port, password=PASSWORD) as client:
            assert "noeviction" in str(client.config_get("maxmemory-policy"))
