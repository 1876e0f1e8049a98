"""`rollstream gateway` as an operator starts and ends it: one line with its URL, exit codes, and what it refuses."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen

import httpx
import pytest

from tests.support.command_line import Command, run_python
from tests.support.gateway.served import TOKEN


@pytest.fixture
def command(redis_url: str, policy: str) -> Command:
    return Command(redis_url, policy)


@pytest.fixture
def process(command: Command, chat_tokenizer: Path) -> Iterator[Popen[str]]:
    command.env["ROLLSTREAM_GATEWAY_TOKEN"] = TOKEN
    process = command.start("gateway", "--tokenizer", str(chat_tokenizer), "--port", "auto", "--grace-s", "0")
    yield process
    process.kill()
    process.communicate()


def test_it_prints_its_url_answers_and_ends_with_a_signal(process: Popen[str], policy: str) -> None:
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    assert url.startswith("http://127.0.0.1:")
    assert url.endswith("/v1")
    listed = httpx.get(f"{url}/models", headers={"authorization": f"Bearer {TOKEN}"}, timeout=30)
    assert listed.json()["data"][0]["id"] == policy
    assert httpx.get(f"{url}/models", timeout=30).status_code == 401

    process.send_signal(signal.SIGTERM)

    assert process.wait(30) == 0
    assert process.stderr is not None
    [told] = process.stderr.read().splitlines()
    assert f"gateway: requests wait: no worker serves policy {policy!r}: " in told
    assert process.stdout.read() == ""


def test_a_port_that_is_taken_is_named(command: Command, chat_tokenizer: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = command("gateway", "--tokenizer", str(chat_tokenizer), "--port", port)
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert f"port {port} of 127.0.0.1" in done.stderr


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0: others reach this address, so it needs a token; make one with"),
        (["--token-file", "/nothing/here"], "--token-file /nothing/here: No such file or directory; make one with"),
        (["--tokenizer", "/nothing/here"], "--tokenizer /nothing/here: "),
        (["--redis", "http://u:hunter2@h"], "cannot connect: Redis at ***: not a Redis URL"),
        (["--tool-calls", "x"], "--tool-calls x: give one of auto, none, hermes"),
    ],
)
def test_what_would_be_unsafe_or_cannot_be_is_refused_in_one_line(
    command: Command, chat_tokenizer: Path, flags: list[str], told: str
) -> None:
    done = command(
        "gateway",
        "--port",
        "auto",
        *(("--tokenizer", str(chat_tokenizer)) if "--tokenizer" not in flags else ()),
        *flags,
    )
    assert (done.exit_code, done.stdout) == (2, "")
    assert told in done.stderr
    assert "hunter2" not in done.stderr
    assert "Traceback" not in done.stderr


def test_more_requests_than_open_files_are_refused_at_the_start(chat_tokenizer: Path) -> None:
    arguments = ["rollstream", "gateway", "--policy", "p", "--tokenizer", str(chat_tokenizer), "--port", "auto"]
    limit = "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (200, 228))\n"
    done = run_python(f"{limit}sys.argv = {arguments!r}\nfrom rollstream.__main__ import main; main()")

    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "--max-requests 1024: this process may open 228 files" in done.stderr
    assert "give at most 100" in done.stderr


def test_without_the_extra_one_line_says_what_to_install(chat_tokenizer: Path) -> None:
    code = "import sys; sys.modules['uvicorn'] = None\n"
    arguments = ["rollstream", "gateway", "--policy", "p", "--tokenizer", str(chat_tokenizer)]
    done = run_python(f"{code}sys.argv = {arguments!r}\nfrom rollstream.__main__ import main; main()")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "rollstream: the gateway needs uvicorn: pip install 'rollstream[gateway]'\n"
