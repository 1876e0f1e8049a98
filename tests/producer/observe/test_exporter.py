"""`rollstream exporter` as Prometheus meets it: a scrape under load, Redis away, hung and back, ends, taken ports."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis as blocking
from typer.testing import CliRunner

from rollstream import Client
from rollstream.producer.cli.app import app
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from rollstream.schemas.metrics import QueueMetric, metrics_of
from rollstream.schemas.printable import printable
from rollstream.transport.addresses import NO_SUCH_ADDRESS
from tests.support.fault_steps import stub, tokens
from tests.support.faults import Link
from tests.support.watching.exporters import exporting
from tests.support.worker_process import ROOT, wait_for

UP = QueueMetric.UP.name
SCRAPE_TIMEOUT_S = 10
"""Prometheus' default."""


def test_a_scrape_under_load_tells_jobs_tokens_and_workers(redis_url: str, policy: str, client: Client) -> None:
    with exporting(redis_url, policy) as exporter, stub(redis_url, policy, group_s=0.2, at_once=1) as worker:
        handle = client.submit([[1]] * 8, None, tokens(), prompts_per_job=1)
        wait_for(lambda: exporter.scrape()["rollstream_queue_tokens"][("0",)] > 0, 20, exporter.text)
        busy = exporter.scrape()
        handle.wait(60)
        wait_for(lambda: exporter.scrape()["rollstream_queue_tokens"][("0",)] == 0, 20, exporter.text)
        wait_for(lambda: "rollstream_backlog_seconds" in exporter.scrape(), 20, exporter.text)
        text = exporter.text()
        assert worker.process.poll() is None

    assert sum(busy["rollstream_queue_jobs"].values()) > 0
    assert busy["rollstream_workers"][("serving",)] == 1
    for metric in metrics_of(QueueMetric):
        assert f"# HELP {metric.name} {metric.help}\n" in text
        assert f"# TYPE {metric.name} {metric.kind}\n" in text
    assert "process_resident_memory_bytes" in text


def test_many_who_ask_at_once_share_one_reading_a_second(policy: str) -> None:
    with EmbeddedRedis() as own, exporting(own.url, policy) as exporter, blocking.Redis.from_url(own.url) as redis:
        exporter.scrape()
        redis.config_resetstat()
        before = time.monotonic()
        with ThreadPoolExecutor(8) as askers:
            answers = list(askers.map(lambda _: exporter.is_up(), range(60)))
        seconds = time.monotonic() - before
        readings = redis.info("commandstats").get("cmdstat_time", {"calls": 0})["calls"]

    assert answers == [True] * 60
    assert readings <= seconds + 1


def test_a_redis_that_is_away_shows_as_down_without_old_values_and_comes_back(policy: str) -> None:
    with EmbeddedRedis(appendonly=True) as own:
        own.stop()
        with exporting(own.url, policy) as exporter:
            assert not exporter.is_up()
            own.start()
            wait_for(exporter.is_up, 20, exporter.text)
            own.kill()
            wait_for(lambda: not exporter.is_up(), 20, exporter.text)
            away = exporter.scrape()
            own.start()
            wait_for(exporter.is_up, 20, exporter.text)

            assert [name for name in away if name.startswith("rollstream_")] == [UP]
            assert "rollstream_queue_jobs" in exporter.scrape()
            assert exporter.end(signal.SIGTERM) == 0


def test_a_redis_that_hangs_shows_as_down_within_the_time_of_a_scrape(redis_url: str, policy: str) -> None:
    with Link(redis_url) as link, exporting(link.url, policy) as exporter:
        assert exporter.is_up()
        link.freeze()
        wait_for(lambda: exporter.scrape(SCRAPE_TIMEOUT_S)[UP] == {(): 0.0}, 20, exporter.text)
        link.thaw()
        wait_for(exporter.is_up, 20, exporter.text)

        assert exporter.end(signal.SIGINT) == 130


def test_a_port_that_is_taken_is_wrong_usage_and_named(redis_url: str, policy: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        args = ["exporter", "--policy", policy, "--redis", redis_url, "--port", port, "--host", "127.0.0.1"]
        done = subprocess.run(
            [sys.executable, "-m", "rollstream", *args],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    assert done.returncode == 2
    assert f"127.0.0.1:{port}" in done.stderr
    assert "auto" in done.stderr


@pytest.mark.parametrize("host", ["no-such-host.invalid", "192.0.2.1", "no..name", "\x1b[2J"])
def test_an_address_that_is_not_here_is_wrong_usage_of_host(redis_url: str, policy: str, host: str) -> None:
    flags = ["--policy", policy, "--redis", redis_url, "--port", "auto", "--host", host]
    done = CliRunner().invoke(app, ["exporter", *flags])

    assert done.exit_code == 2
    assert done.stderr == f"rollstream: --host {printable(host)}: {NO_SUCH_ADDRESS}\n"


@pytest.mark.parametrize("port", ["0", "65536", "-1", "x", "1e3"])
def test_a_port_that_is_none_is_wrong_usage(policy: str, port: str) -> None:
    done = CliRunner().invoke(app, ["exporter", "--policy", policy, f"--port={port}"])

    assert done.exit_code == 2
    assert "auto" in done.stderr


def test_a_missing_library_is_named_with_its_extra(policy: str) -> None:
    program = (
        "import sys; sys.modules['prometheus_client'] = None\n"
        "from rollstream.producer.cli.app import app\n"
        f"app(['exporter', '--policy', '{policy}'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 2
    assert "pip install 'rollstream[observe]'" in done.stderr
    assert "Traceback" not in done.stderr
