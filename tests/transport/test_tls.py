"""Producer and worker through TLS, with certificates from the URL, where there is a redis-server that speaks it."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rollstream import Client, GenerationConfig, RedisUnavailableError
from rollstream.producer.demo.embedded_redis import die_with_parent
from rollstream.producer.demo.redis_server import find_redis_server
from rollstream.worker.config import WorkerSettings
from rollstream.worker.errors import SettingsError
from rollstream.worker.redis_io.connections import connect
from rollstream.worker.startup.redis_checks import wait_for_redis
from tests.support.worker_process import WorkerProcess, wait_for

OPTIONS = {"ssl_ca_certs": "ca.pem", "ssl_certfile": "me.pem", "ssl_keyfile": "me.key"}


def openssl(*words: str | Path) -> None:
    subprocess.run([shutil.which("openssl") or "openssl", *words], check=True, capture_output=True, timeout=30)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.pem, and me.pem with me.key for 127.0.0.1, which both sides use."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here")
    folder = tmp_path_factory.mktemp("tls")
    new = ("req", "-newkey", "rsa:2048", "-nodes", "-days", "2")
    openssl(*new, "-x509", "-subj", "/CN=ca", "-keyout", folder / "ca.key", "-out", folder / "ca.pem")
    openssl(*new, "-subj", "/CN=me", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", folder / "me.key", "-out",
            folder / "me.csr")  # fmt: skip
    openssl("x509", "-req", "-in", folder / "me.csr", "-CA", folder / "ca.pem", "-CAkey", folder / "ca.key",
            "-CAcreateserial", "-days", "2", "-copy_extensions", "copy", "-out", folder / "me.pem")  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def port(certificates: Path) -> Iterator[int]:
    """A Redis that speaks only TLS and asks for a client's certificate."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number: int = free.getsockname()[1]
    words = ["--port", "0", "--tls-port", str(number), "--save", "", "--dir", str(certificates)]
    for option, file in (("cert", "me.pem"), ("key", "me.key"), ("ca-cert", "ca.pem")):
        words += [f"--tls-{option}-file", str(certificates / file)]
    server = subprocess.Popen(
        [str(find_redis_server()), *words], stdout=subprocess.DEVNULL, preexec_fn=die_with_parent()
    )
    try:
        wait_for(lambda: server.poll() is not None or listens(number), 30, lambda: "neither ended nor listens")
        if server.poll() is not None:
            pytest.skip("this redis-server has no TLS")
        yield number
    finally:
        server.kill()
        server.wait()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def refusal(url: str) -> str:
    client = connect(url)
    try:
        await wait_for_redis(client, WorkerSettings(policy="p", engine="stub", redis=url))
    except SettingsError as error:
        return str(error)
    finally:
        await client.aclose()
    return ""


def test_a_batch_travels_through_tls(port: int, certificates: Path, policy: str) -> None:
    names = "&".join(f"{name}={certificates / file}" for name, file in OPTIONS.items())
    url = f"rediss://127.0.0.1:{port}/0?{names}"

    worker = WorkerProcess(url, policy, "--engine", "stub")
    try:
        with Client(url, policy=policy) as client:
            found = client.generate([[5]], None, GenerationConfig(max_new_tokens=2), timeout=30)
        code = worker.terminate()
    finally:
        worker.end()

    assert found.errors == {}
    assert code == 0


async def test_what_tls_refuses_is_told_at_the_start(port: int, certificates: Path) -> None:
    authority = f"ssl_ca_certs={certificates / 'ca.pem'}"

    said = [
        await refusal(f"redis://127.0.0.1:{port}"),
        await refusal(f"rediss://127.0.0.1:{port}"),
        await refusal(f"rediss://127.0.0.1:{port}?{authority}"),
    ]

    assert "it speaks TLS: write rediss://" in said[0]
    assert "its certificate is not to be trusted" in said[1]
    assert "ssl_certfile and ssl_keyfile" in said[2]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("ssl_ca_certs=/nowhere.pem", "ssl_ca_certs=/nowhere.pem: No such file"),
        ("ssl_ca_certs={me}/me.key", "cannot be used"),
        ("ssl_keyfile={me}/me.key", "ssl_keyfile is a key without its certificate"),
        ("ssl_certfile={me}/ca.pem&ssl_keyfile={me}/me.key", "cannot be used"),
    ],
)
def test_certificates_that_cannot_be_used_are_refused_by_both_sides(
    certificates: Path, options: str, said: str
) -> None:
    url = f"rediss://127.0.0.1:1/0?{options.format(me=certificates)}"

    for made in (lambda: connect(url), lambda: Client(url, policy="p")):
        with pytest.raises((SettingsError, RedisUnavailableError), match=said):
            made()
