"""`rollstream web` as an operator starts and ends it: one line with its URL, exit codes, and what it refuses."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from subprocess import Popen
from urllib.parse import urlsplit

import pytest

from rollstream.producer.http.sockets import is_loopback, url_of
from tests.support.command_line import Command, run_python


@pytest.fixture
def command(redis_url: str, policy: str) -> Command:
    return Command(redis_url, policy)


@pytest.fixture
def process(command: Command) -> Iterator[Popen[str]]:
    process = command.start("web", "--port", "auto")
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize(("ending", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_it_prints_its_url_and_ends_though_a_browser_looks(
    process: Popen[str], ending: signal.Signals, code: int
) -> None:
    assert process.stdout is not None
    url = urlsplit(process.stdout.readline().strip())
    assert (url.scheme, url.hostname, url.path) == ("http", "127.0.0.1", "/")
    browser = HTTPConnection("127.0.0.1", url.port or 0, timeout=30)
    browser.request("GET", "/events")
    stream = browser.getresponse()
    while stream.readline() != b"event: fleet\n":
        pass

    process.send_signal(ending)

    assert process.wait(30) == code
    assert stream.read().endswith(b"\n\n")
    assert process.stderr is not None
    [told] = process.stderr.read().splitlines()
    assert " page: requests wait: no worker serves policy " in told
    assert process.stdout.read() == ""


def test_a_port_that_is_taken_is_named(command: Command) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = command("web", "--port", str(port))

    told = "Address already in use; give another --port, or --port auto for a free one"
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == f"rollstream: port {port} of 127.0.0.1: {told}\n"


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0: others reach this address, so it needs a token; make one with"),
        (["--host", "::"], "--host ::: others reach this address, so it needs a token; make one with"),
        (["--allow-actions"], "--allow-actions: actions need a token; make one with"),
        (["--token-file", "/nothing/here"], "--token-file /nothing/here: No such file or directory; make one with"),
        (["--host", "no-such-host.invalid"], "--host no-such-host.invalid: no such address"),
        (["--redis", "http://u:hunter2@h"], "cannot connect: Redis at ***: not a Redis URL"),
        (["--host", "\x1b[2J"], "--host \\x1b[2J: no such address"),
        (["--host", "192.0.2.1"], "--host 192.0.2.1: no such address"),
    ],
)
def test_what_would_be_unsafe_or_cannot_be_is_refused_in_one_line(
    command: Command, flags: list[str], told: str
) -> None:
    done = command("web", "--port", "auto", *flags)

    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"rollstream: {told}")
    assert done.stderr.count("\n") == 1
    assert "hunter2" not in done.stderr


def test_a_short_token_is_refused_without_being_shown(command: Command) -> None:
    command.env["ROLLSTREAM_WEB_TOKEN"] = "hunter2"
    done = command("web", "--port", "auto")

    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("rollstream: ROLLSTREAM_WEB_TOKEN: a token has 16 to 1024")
    assert "hunter2" not in done.stderr


@pytest.mark.parametrize("port", ["0", "-1", "65536", "x", "", "8080.0", "٣", "999999"])
def test_a_port_that_is_none_is_a_usage_error(command: Command, port: str) -> None:
    done = command("web", "--port", port)
    assert done.exit_code == 2
    assert done.stderr == "rollstream: --port: give a port from 1 to 65535, or auto for a free one\n"


def test_a_folder_without_a_tokenizer_is_named_before_anything_listens(command: Command, tmp_path: Path) -> None:
    done = command("web", "--port", "auto", "--tokenizer", str(tmp_path / "none"))
    assert (done.exit_code, done.stdout) == (2, "")
    assert "--tokenizer" in done.stderr


def test_without_the_extra_one_line_says_what_to_install() -> None:
    code = "import sys; sys.modules['uvicorn'] = None; sys.argv = ['rollstream', 'web', '--policy', 'p']\n"
    done = run_python(code + "from rollstream.__main__ import main; main()")

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "rollstream: the page needs uvicorn: pip install 'rollstream[observe]'\n"


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.1", "::1"])
def test_only_this_machine_reaches_a_loopback_address(address: str) -> None:
    assert is_loopback(address)


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "10.0.0.1", "fe80::1%eth0", "::ffff:10.0.0.1"])
def test_others_reach_every_other_address(address: str) -> None:
    assert not is_loopback(address)


@pytest.mark.parametrize(
    ("host", "bound", "url"),
    [
        ("127.0.0.1", "127.0.0.1", "http://127.0.0.1:80/"),
        ("localhost", "127.0.0.1", "http://localhost:80/"),
        ("::1", "::1", "http://[::1]:80/"),
        ("0.0.0.0", "0.0.0.0", f"http://{socket.gethostname().lower()}:80/"),
        ("gpu-7", "10.0.0.7", "http://gpu-7:80/"),
    ],
)
def test_the_url_is_one_that_can_be_opened(host: str, bound: str, url: str) -> None:
    assert url_of(host, bound, 80) == url
