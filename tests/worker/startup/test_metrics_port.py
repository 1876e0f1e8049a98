"""`--metrics-port`: a port that cannot be had ends the worker before anything else is tried; off costs nothing."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from rollstream.schemas import Keys
from rollstream.schemas.hashes.worker_report import WorkerReport
from rollstream.schemas.printable import printable
from rollstream.transport.addresses import NO_SUCH_ADDRESS
from rollstream.worker.config import WorkerSettings
from rollstream.worker.errors import SettingsError
from rollstream.worker.measure.measures import Measures
from rollstream.worker.startup.command_line import read_settings
from rollstream.worker.startup.metrics import serve_metrics
from rollstream.worker.startup.start import Start
from tests.support.watching.scraping import scrape
from tests.support.worker_process import ROOT, wait_for

NOTHING = """
import sys
import rollstream.worker.app, rollstream.worker.command, rollstream.worker.engines.stub
from rollstream.worker.config import WorkerSettings
from rollstream.worker.measure.measures import Measures
from rollstream.worker.startup.metrics import serve_metrics

assert serve_metrics(WorkerSettings(policy="p", engine="stub"), Measures(), {}) is None
print(sorted({"prometheus_client", "http.server", "wsgiref"} & sys.modules.keys()))
"""


def settings(**fields: object) -> WorkerSettings:
    return WorkerSettings.model_validate({"policy": "p", "engine": "stub", "metrics_host": "127.0.0.1", **fields})


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def test_a_port_that_is_taken_is_exit_2_with_its_number_before_redis_is_asked(taken: int) -> None:
    flags = ["--policy", "p", "--engine", "stub", "--redis", "redis://127.0.0.1:1", "--metrics-host", "127.0.0.1"]
    done = subprocess.run(
        [sys.executable, "-m", "rollstream.worker", *flags, "--metrics-port", str(taken)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip

    assert done.returncode == 2, done.stderr
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("rollstream-worker: ")]
    assert f"--metrics-port {taken}" in said
    assert os.strerror(98) in said
    assert "auto" in said


async def test_a_worker_whose_start_blocks_everything_is_asked_where_it_says(
    redis_url: str, policy: str, server: Any
) -> None:
    start = Start(settings(policy=policy, redis=redis_url, consumer="w", metrics_port="auto", heartbeat_s=0.5))
    await start.begin()
    try:
        # From here on this loop does nothing, as while an engine loads.
        wait_for(lambda: bool(server.hget(Keys(policy).worker("w"), "metrics_port")), 20, lambda: "no report")
        told = WorkerReport.of(server.hgetall(Keys(policy).worker("w")))
        assert (told.state, told.heartbeat_s) == ("starting", 0.5)
        assert told.metrics_port is not None
        assert scrape(told.metrics_port).value("rollstream_worker_state", state="starting") == 1
    finally:
        start.close()


@pytest.mark.parametrize("path", ["/", "/favicon.ico", "/metrics/", "/metrics2"])
def test_there_is_nothing_but_metrics(path: str) -> None:
    server = serve_metrics(settings(metrics_port="auto"), Measures(), {})
    assert server is not None
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=20)
    server.close()


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid", "no..name", "\x1b[2J"])
def test_a_host_that_is_not_here_is_refused(host: str) -> None:
    with pytest.raises(SettingsError) as refused:
        serve_metrics(settings(metrics_port="auto", metrics_host=host), Measures(), {})
    assert str(refused.value) == f"--metrics-host {printable(host)}: {NO_SUCH_ADDRESS}"


def test_each_worker_with_auto_takes_a_port_of_its_own_and_frees_it(taken: int) -> None:
    servers = [serve_metrics(settings(metrics_port="auto"), Measures(), {}) for _ in range(2)]
    ports = {server.port for server in servers if server is not None}

    assert len(ports - {0, taken}) == 2
    for server in servers:
        assert server is not None
        assert scrape(server.port).value("rollstream_tokens_total") == 0
        server.close()
    for port in ports:
        socket.create_server(("127.0.0.1", port)).close()


@pytest.mark.parametrize("host", ["::1", "localhost"])
def test_it_is_found_at_the_host_that_was_given(host: str) -> None:
    server = serve_metrics(settings(metrics_port="auto", metrics_host=host), Measures(), {})
    assert server is not None
    with socket.create_connection((host, server.port), timeout=20) as asked:
        asked.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert asked.recv(64).startswith(b"HTTP/1.0 200")
    server.close()


def test_without_its_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    users = "prometheus_client", "rollstream.transport.metrics.", "rollstream.worker.measure.prometheus"
    for name in [name for name in sys.modules if name.startswith(users)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)

    with pytest.raises(SettingsError) as refused:
        serve_metrics(settings(metrics_port="auto"), Measures(), {})
    assert str(refused.value) == "--metrics-port needs prometheus_client: pip install 'rollstream[observe]'"


def test_a_worker_without_the_flag_imports_nothing_for_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NOTHING], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


@pytest.mark.parametrize(("given", "port"), [("9100", 9100), ("0", 0), ("auto", "auto"), ("65535", 65535)])
def test_a_port_is_a_number_or_auto(given: str, port: object) -> None:
    assert read_settings(["--policy", "p", "--engine", "stub", "--metrics-port", given]).metrics_port == port


@pytest.mark.parametrize("given", ["-1", "65536", "AUTO", "", "80.0", "1e3", "9" * 5000])
def test_what_is_no_port_is_refused_in_one_line(given: str) -> None:
    with pytest.raises(SettingsError) as refused:
        read_settings(["--policy", "p", "--engine", "stub", f"--metrics-port={given}"])
    assert str(refused.value) == "--metrics-port: give a port from 1 to 65535, auto for a free one, or 0 for none"


def test_kubernetes_link_to_a_service_of_that_name_is_no_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROLLSTREAM_METRICS_PORT", "tcp://10.0.0.7:9100")
    assert read_settings(["--policy", "p", "--engine", "stub"]).metrics_port == 0
