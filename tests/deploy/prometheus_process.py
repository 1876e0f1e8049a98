"""A real Prometheus with the configuration of `deploy/prometheus`, that asks every half second."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import yaml

from rollstream.producer.demo.embedded_redis import die_with_parent, free_port
from tests.deploy.promql import DEPLOY
from tests.support.worker_process import wait_for

PROMETHEUS = shutil.which("prometheus")


class Prometheus:
    """Where a running one answers."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def ask(self, path: str, **query: str) -> Any:
        """The `data` of an answer of its API; a refused expression fails with what Prometheus says of it."""
        url = f"{self.url}/api/v1/{path}?{urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{query}: {error.read().decode()}") from None

    def values(self, expr: str) -> list[tuple[dict[str, str], float]]:
        """What an expression gives now: labels and number of each series."""
        return [(row["metric"], float(row["value"][1])) for row in self.ask("query", query=expr)["result"]]

    def is_ready(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.url}/-/ready", timeout=2).close()
        except OSError:
            return False
        return True


@contextmanager
def running_prometheus(folder: Path, targets: Mapping[str, list[dict[str, Any]]]) -> Iterator[Prometheus]:
    """Started in a copy of `deploy/prometheus`; `targets`: file name below `targets` to what it lists."""
    assert PROMETHEUS is not None
    shutil.copytree(DEPLOY / "prometheus", folder, dirs_exist_ok=True)
    config = yaml.safe_load((folder / "prometheus.yml").read_text())
    config["global"] = dict.fromkeys(config["global"], "500ms")
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    for name, listed in targets.items():
        (folder / "targets" / name).write_text(yaml.safe_dump(listed))
    port = free_port()
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [
                PROMETHEUS,
                "--config.file=prometheus.yml",
                "--storage.tsdb.path=data",  # Debian's default is one folder for the whole machine
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            cwd=folder,
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            preexec_fn=die_with_parent(),
        )
    try:
        prometheus = Prometheus(port)
        wait_for(lambda: process.poll() is not None or prometheus.is_ready(), 30, log.read_text)
        assert process.poll() is None, log.read_text()
        yield prometheus
    finally:
        process.terminate()
        process.wait(20)
