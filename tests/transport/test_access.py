"""What a Redis is reached with: from arguments, flags and variables alike, without secrets, contradictions refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from rollstream import AsyncClient, RedisUnavailableError
from rollstream.producer.cli.app import app
from rollstream.transport.redis.access import RedisAccess
from rollstream.transport.redis.urls import RedisUrlError
from rollstream.worker.config import WorkerSettings

SECRET = "hidden"
BESIDE: dict[str, Any] = {
    "ca": "/ca.pem", "cert": "/me.pem", "key": "/me.key", "password_file": "/password", "wait": 1,
    "sentinel_password_file": "/sentinels",
}  # fmt: skip


def test_it_shows_where_and_with_which_files_and_no_secret() -> None:
    access = RedisAccess(url=f"rediss://u:{SECRET}@h/3?ssl_password={SECRET}", ca="/ca.pem", wait=2)

    assert str(access) == "rediss://***@h/3"
    assert repr(access) == "RedisAccess(url='rediss://***@h/3', ca='/ca.pem', wait='2')"
    assert SECRET not in f"{dataclasses.replace(access, key='/k')!r}"


def test_a_url_alone_is_an_access() -> None:
    access = RedisAccess.of("redis://h")

    assert access == RedisAccess(url="redis://h")
    assert RedisAccess.of(access) is not None
    assert RedisAccess.of(access, ca="/ca.pem").ca == "/ca.pem"


def test_files_are_the_urls_options_wherever_they_are_named() -> None:
    beside = RedisAccess(url="rediss://h", ca=Path("/ca.pem"), cert="/me.pem", key="/me.key").place()
    inside = RedisAccess(url="rediss://h?ssl_ca_certs=/ca.pem&ssl_certfile=/me.pem&ssl_keyfile=/me.key").place()

    assert dict(beside.options) == dict(inside.options)


def test_the_same_file_may_be_named_twice() -> None:
    place = RedisAccess(url="rediss://h?ssl_ca_certs=/ca.pem", ca="/ca.pem").place()

    assert place.options["ssl_ca_certs"] == "/ca.pem"


@pytest.mark.parametrize(
    ("url", "beside", "said"),
    [
        ("rediss://h?ssl_ca_certs=/a", {"ca": "/b"}, "redis_ca and ssl_ca_certs in the URL name different files"),
        ("redis://h", {"ca": "/b"}, "redis_ca is for TLS"),
        ("unix:///s", {"cert": "/b"}, "redis_cert is for TLS"),
        ("rediss://h", {"key": "/b"}, "redis_key is a key without its certificate"),
        ("rediss://h?ssl_keyfile=/b", {}, "ssl_keyfile is a key without its certificate"),
        (f"redis://u:{SECRET}@h", {"password_file": "/b"}, "a password in the URL and a redis_password_file"),
        (f"redis://h?password={SECRET}", {"password_file": "/b"}, "a password in the URL and a redis_password_file"),
        ("redis://h", {"sentinel_password_file": "/b"}, "redis_sentinel_password_file is for Sentinels"),
        (
            f"redis+sentinel://h/m?sentinel_password={SECRET}",
            {"sentinel_password_file": "/b"},
            "a sentinel_password in the URL and a redis_sentinel_password_file",
        ),
        ("redis://h", {"wait": -1}, "redis_wait is no number"),
        ("redis://h", {"wait": True}, "redis_wait is no number"),
        ("redis://h", {"wait": "1"}, "redis_wait is no number"),
    ],
)
def test_what_contradicts_itself_is_refused(url: str, beside: dict[str, Any], said: str) -> None:
    with pytest.raises(RedisUrlError, match=said) as caught:
        RedisAccess(url=url, **beside).place()

    assert SECRET not in str(caught.value)


def test_a_client_refuses_what_is_given_twice() -> None:
    access = RedisAccess(url="rediss://h", ca="/a.pem")

    with pytest.raises(RedisUnavailableError, match="redis_ca is given twice"):
        AsyncClient(access, policy="p", redis_ca="/b.pem")


def test_flags_and_variables_of_a_worker_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    named: dict[str, Any] = {f"redis_{name}": value for name, value in BESIDE.items()}
    by_flags = WorkerSettings(policy="p", engine="stub", redis="rediss://h", **named)
    for name, value in BESIDE.items():
        monkeypatch.setenv(f"ROLLSTREAM_REDIS_{name.upper()}", str(value))
    monkeypatch.setenv("ROLLSTREAM_REDIS", "rediss://h")
    by_variables = WorkerSettings(policy="p", engine="stub")

    assert by_flags.access == by_variables.access
    assert str(by_variables.access.ca) == "/ca.pem"
    assert by_variables.access.wait == 1


def test_a_variable_without_a_value_names_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CA", "CERT", "KEY", "PASSWORD_FILE", "SENTINEL_PASSWORD_FILE"):
        monkeypatch.setenv(f"ROLLSTREAM_REDIS_{name}", "")

    settings = WorkerSettings(policy="p", engine="stub")

    assert settings.access == RedisAccess()


def test_a_worker_shows_its_settings_without_a_password() -> None:
    settings = WorkerSettings(policy="p", engine="stub", redis=f"redis://u:{SECRET}@h", redis_wait=1)

    shown = json.dumps(settings.shown())

    assert SECRET not in shown
    assert '"redis_wait": 1' in shown


def options_by_command() -> dict[tuple[str, ...], set[str]]:
    """The options of each command that has `--redis`."""
    found: dict[tuple[str, ...], set[str]] = {}

    def walk(command: Any, words: tuple[str, ...]) -> None:
        for name, inner in getattr(command, "commands", {}).items():
            walk(inner, (*words, name))
        options = {option for parameter in command.params for option in parameter.opts}
        if "--redis" in options:
            found[words] = options

    walk(get_command(app), ())
    return found


def test_each_command_that_reaches_redis_has_all_options_of_it() -> None:
    expected = {f"--redis-{name.replace('_', '-')}" for name in BESIDE}

    found = options_by_command()

    assert [words for words, options in found.items() if not expected <= options] == []
    assert {("doctor",), ("dead", "ls")} <= found.keys()
    assert len(found) > 20


def test_a_command_tells_of_a_file_that_is_missing_by_flag_and_by_variable() -> None:
    flag = ["--redis", "rediss://h", "--redis-ca", "/nowhere.pem"]
    variables = {"ROLLSTREAM_REDIS": "rediss://h", "ROLLSTREAM_REDIS_CA": "/nowhere.pem"}

    said = [
        CliRunner().invoke(app, ["status", "--policy", "p", *flag]),
        CliRunner(env=variables).invoke(app, ["status", "--policy", "p"]),
    ]

    for done in said:
        assert done.exit_code == 1
        assert "redis_ca=/nowhere.pem: No such file or directory; name a PEM file" in done.stderr
