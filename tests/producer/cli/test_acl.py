"""`rollstream acl` prints a line that an administrator can send, and no password."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from rollstream.transport.acl import Role, Server, User, setuser
from tests.support.command_line import Command


@pytest.fixture
def command() -> Command:
    return Command("redis://nowhere.invalid", "math-7b")


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("server", Server)
def test_the_line_is_that_of_the_table(command: Command, role: Role, server: Server) -> None:
    done = command("acl", "--role", role, "--for-redis", server)

    user = User(name=f"math-7b-{role}", role=role, policy="math-7b")
    assert (done.exit_code, done.stdout) == (0, " ".join(setuser(user, server)) + "\n")
    assert " reset on resetpass " in done.stdout
    assert f"nobody can log in as math-7b-{role} before it has a password: give --password-file" in done.stderr


def test_of_a_password_only_its_digest_is_printed(command: Command, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("s3cret word\n")

    done = command("acl", "--role", "worker", "--password-file", str(tmp_path / "password"))

    assert f" on #{hashlib.sha256(b's3cret word').hexdigest()} " in done.stdout
    assert "s3cret" not in done.output
    assert "resetpass" not in done.output
    assert done.stderr == ""


def test_a_password_is_added_to_a_user_by_a_line_that_changes_nothing_else(command: Command, tmp_path: Path) -> None:
    (tmp_path / "new").write_text("n3w\n")
    flags = ("--role", "worker", "--add-password-file", str(tmp_path / "new"))
    rule = f"#{hashlib.sha256(b'n3w').hexdigest()}"

    done = command("acl", *flags)

    assert (done.exit_code, done.stdout, done.stderr) == (0, f"ACL SETUSER math-7b-worker {rule}\n", "")
    assert json.loads(command("acl", *flags, "--json").stdout)["rules"] == [rule]


def test_json_has_the_rules_one_by_one(command: Command) -> None:
    done = command("acl", "--role", "exporter", "--user", "ann", "--partitions", "2", "--keep-password", "--json")

    told = json.loads(done.stdout)
    assert (told["user"], told["role"], told["for_redis"], told["rules"][0]) == ("ann", "exporter", "7", "on")
    assert told["command"] == " ".join(["ACL SETUSER ann", *told["rules"]])
    assert "%R~rs:{math-7b:1}:jobs" in told["command"]
    assert "{math-7b:*}" not in told["command"]
    assert "resetpass" not in done.output
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--role", "king"], "producer"),
        (["--role", "worker", "--policy", "a*b"], "a*b"),
        (["--role", "worker", "--user", "a b"], "no spaces"),
        (["--role", "worker", "--password-file", "/nowhere"], "/nowhere"),
        (["--role", "worker", "--password-file", "/dev/null"], "empty"),
        (["--role", "worker", "--password-file", "/dev/null", "--keep-password"], "exclude"),
        (["--role", "worker", "--password-file", "/dev/null", "--add-password-file", "/dev/null"], "exclude"),
        (["--role", "worker", "--add-password-file", "/nowhere"], "--add-password-file /nowhere"),
    ],
)
def test_what_cannot_be_is_refused(command: Command, args: list[str], said: str) -> None:
    done = command("acl", *args)

    assert done.exit_code in {1, 2}
    assert said in done.stderr.replace("\n", " ")
    assert done.stdout == ""
