"""What `docker compose --profile observe` starts fits together. It is read here and not run: that needs Docker."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from rollstream.producer.cli.app import app
from tests.deploy.promql import DEPLOY
from tests.support.worker_process import ROOT

COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OBSERVE = {name: service for name, service in SERVICES.items() if "observe" in service.get("profiles", ())}
WORKERS = {name for name in SERVICES if name.startswith("worker")}


def with_defaults(text: str) -> str:
    """`text` as compose reads it where no variable is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def scrape_config() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(with_defaults(COMPOSE["configs"]["prometheus"]["content"]))
    return loaded


def test_the_profile_has_what_watches_and_what_shows() -> None:
    assert set(OBSERVE) == {"exporter", "web", "prometheus", "grafana"}


def test_what_watches_is_reached_from_this_machine_alone() -> None:
    published = [port for service in OBSERVE.values() for port in service.get("ports", ())]

    assert len(published) == 2
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert OBSERVE["web"]["network_mode"] == "host"
    assert "--host" not in OBSERVE["web"]["command"], "the page's own default is loopback"


def test_every_file_that_is_mounted_exists() -> None:
    volumes = [volume for service in OBSERVE.values() for volume in service.get("volumes", ())]
    folders = [volume.split(":")[0] for volume in volumes if volume.startswith("./")]

    assert len(folders) == 3
    assert [folder for folder in folders if not (ROOT / folder).exists()] == []
    named = {volume.split(":")[0] for volume in volumes if not volume.startswith("./")}
    assert named <= set(COMPOSE["volumes"])


def test_prometheus_asks_the_same_jobs_as_without_docker() -> None:
    alone = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    here = scrape_config()

    assert [job["job_name"] for job in here["scrape_configs"]] == [job["job_name"] for job in alone["scrape_configs"]]
    assert (here["global"], here["rule_files"]) == (alone["global"], alone["rule_files"])


def test_prometheus_asks_every_worker_and_the_exporter_where_they_listen() -> None:
    workers, exporter = scrape_config()["scrape_configs"]
    (found,), (fixed,) = workers["dns_sd_configs"], exporter["static_configs"]
    command = OBSERVE["exporter"]["command"]

    assert set(found["names"]) == WORKERS
    assert {SERVICES[name]["environment"]["ROLLSTREAM_METRICS_PORT"] for name in WORKERS} == {found["port"]}
    assert fixed["targets"] == [f"exporter:{command[command.index('--port') + 1]}"]
    assert workers["relabel_configs"] == [{"target_label": "policy", "replacement": fixed["labels"]["policy"]}]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool on PATH (Debian: apt install prometheus)")
def test_promtool_takes_the_configuration(tmp_path: Path) -> None:
    shutil.copy(DEPLOY / "prometheus" / "rules.yml", tmp_path)
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(scrape_config()))

    done = subprocess.run(
        ["promtool", "check", "config", "prometheus.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_grafana_finds_prometheus_and_its_boards_where_compose_puts_them() -> None:
    provisioning = DEPLOY / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "rollstream.yml").read_text())["providers"]
    mounted = dict(volume.split(":")[:2] for volume in OBSERVE["grafana"]["volumes"])
    home = OBSERVE["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]

    assert source["url"] == "http://prometheus:9090"
    assert mounted["./deploy/grafana/dashboards"] == provider["options"]["path"] == str(Path(home).parent)
    assert (DEPLOY / "grafana" / "dashboards" / Path(home).name).is_file()


def test_the_exporter_and_the_page_have_the_options_that_they_are_started_with() -> None:
    commands: Any = typer.main.get_group(app)
    for name in ("exporter", "web"):
        command, *flags = OBSERVE[name]["command"]
        known = {option for parameter in commands.commands[command].params for option in parameter.opts}
        assert {flag for flag in flags if flag.startswith("--")} <= known, name
