"""The lines: what they say, that servers take them, and that no more is allowed than they say."""

from __future__ import annotations

from typing import Any

import pytest
import redis as blocking
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError

from rollstream.schemas.key_kinds import KeyKind
from rollstream.schemas.keys import Keys, horizons, totals
from rollstream.transport.acl import Right, Role, Server, User, rights_of, setuser
from rollstream.transport.acl.commands import COMMANDS, NOT_GIVEN, Access, words
from rollstream.transport.acl.setuser import line
from tests.support.roles.users import Users

KEYS = Keys("p", partitions=2)
ONE_OF_EACH = {
    KeyKind.JOBS: KEYS.jobs(1), KeyKind.HORIZONS: horizons(KEYS.jobs(1)), KeyKind.TOTALS: totals(KEYS.jobs(1)),
    KeyKind.DEAD: KEYS.dead(1), KeyKind.BATCHES: KEYS.batches(1), KeyKind.LEDGER: KEYS.ledger("b"),
    KeyKind.PARTS: KEYS.parts("b"), KeyKind.PART_BYTES: KEYS.part_bytes(1),
    KeyKind.RESULTS: KEYS.results("b"), KeyKind.ROUTING: KEYS.routing("b"),
    KeyKind.CONTROL: KEYS.control(), KeyKind.VERSIONS: KEYS.versions(),
    KeyKind.ACTIVATIONS: KEYS.activations(), KeyKind.ROUND: KEYS.round(), KeyKind.ROUND_CALL: KEYS.round_call(),
    KeyKind.WORKERS: KEYS.workers(), KeyKind.WORKER: KEYS.worker("w"), KeyKind.HISTORY: KEYS.history(7),
    KeyKind.RUN: KEYS.run("exp"), KeyKind.RUNS: KEYS.runs(),
    KeyKind.SESSION: KEYS.session("s"), KeyKind.SESSIONS: KEYS.sessions(),
    KeyKind.SESSION_WORKER: KEYS.session_worker("s"),
    KeyKind.RATE: KEYS.rate(), KeyKind.ADAPTER: KEYS.adapter("a@1"), KeyKind.BLOB: KEYS.blob("0" * 64, 0),
    KeyKind.MEDIA_INDEX: KEYS.media_index(), KeyKind.MEDIA: KEYS.media("0" * 64),
    KeyKind.WEIGHTS: KEYS.weights(), KeyKind.WEIGHTS_ITEM: KEYS.weights_item("x"), KeyKind.POLICIES: "rs:policies",
}  # fmt: skip


@pytest.mark.parametrize("kind", KeyKind)
def test_each_key_is_of_exactly_one_kind(kind: KeyKind) -> None:
    from fnmatch import fnmatchcase

    assert [one for one in KeyKind if any(fnmatchcase(ONE_OF_EACH[kind], each) for each in one.patterns("p", 2))] == [
        kind
    ]


def test_a_line_has_selectors_with_reading_and_writing_apart_and_one_for_scripts() -> None:
    rights = [
        Right(command="PING", kind=""), Right(command="XADD", kind=KeyKind.DEAD),
        Right(command="XINFO GROUPS", kind=KeyKind.JOBS), Right(command="HGET", kind=KeyKind.RATE),
        Right(command="HSET", kind=KeyKind.RATE), Right(command="EVALSHA", kind=KeyKind.JOBS),
    ]  # fmt: skip
    user = User(name="u", role=Role.WORKER, policy="p")

    assert line(user, Server.SEVEN, rights) == [
        "ACL", "SETUSER", "u", "reset", "on", "resetpass", "resetchannels", "-@all", "+ping",
        "(+hget +hset ~rs:{p}:rate)", "(+xadd %W~rs:{p:*}:dead)", "(+xinfo|groups %R~rs:{p:*}:jobs)",
        "(+evalsha ~rs:{p:*}:jobs)",
    ]  # fmt: skip
    assert line(user, Server.SIX, rights) == [
        "ACL", "SETUSER", "u", "reset", "on", "resetpass", "resetchannels", "-@all", "~rs:{p:*}:dead",
        "~rs:{p:*}:jobs", "~rs:{p}:rate", "+evalsha", "+hget", "+hset", "+ping", "+xadd", "+xinfo|groups",
    ]  # fmt: skip


def test_partitions_are_named_where_their_number_is_known_and_a_password_may_stay() -> None:
    user = User(name="u", role=Role.WORKER, policy="p", partitions=2, secret=None)
    rights = [Right(command="XADD", kind=KeyKind.DEAD)]

    assert line(user, Server.EIGHT, rights) == [
        "ACL", "SETUSER", "u", "on", "resetkeys", "resetchannels", "clearselectors", "-@all",
        "(+xadd %W~rs:{p:0}:dead %W~rs:{p:1}:dead)",
    ]  # fmt: skip
    assert "clearselectors" not in line(user, Server.SIX, rights)


def test_what_no_role_is_given_is_in_no_line() -> None:
    assert not {right.command for role in Role for right in rights_of(role)} & NOT_GIVEN.keys()
    assert {right.command for role in Role for right in rights_of(role)} == COMMANDS.keys()


@pytest.mark.parametrize("role", Role)
def test_a_line_that_is_sent_again_changes_nothing_and_takes_away_what_was_more(users: Users, role: Role) -> None:
    before = users.admin.execute_command("ACL", "LIST")
    users.admin.execute_command("ACL", "SETUSER", role, "+@all", "~*", "&*")
    assert users.admin.execute_command("ACL", "LIST") != before

    for secret in (">pw", None):
        user = User(name=role, role=role, policy=users.policy, secret=secret)
        users.admin.execute_command(*setuser(user, users.server))
        assert users.admin.execute_command("ACL", "LIST") == before


def test_without_a_password_nobody_can_log_in(users: Users) -> None:
    user = User(name="nobody-yet", role=Role.WORKER, policy=users.policy)
    users.admin.execute_command(*setuser(user, users.server))
    try:
        for password in ("PASSWORD", "resetpass", "x"):
            with (
                blocking.Redis.from_url(users.url, username="nobody-yet", password=password) as client,
                pytest.raises(AuthenticationError),
            ):
                client.ping()
    finally:
        users.admin.acl_deluser("nobody-yet")


def test_access_to_keys_is_as_the_server_has_it(users: Users) -> None:
    if users.server is Server.SIX:
        pytest.skip("6.2 does not tell, and has no rules for it")
    users.admin.response_callbacks.clear()
    for name, command in COMMANDS.items():
        told = _flags(users.admin.execute_command("COMMAND", "INFO", name.lower().replace(" ", "|")))
        reads = Access.READ if "access" in told else Access.NONE
        writes = Access.WRITE if told & {"insert", "delete", "update"} else Access.NONE
        own = command.access if name != "SET" else Access.BOTH  # its flags count GET, which is not sent
        assert own == reads | writes, name


def _flags(reply: Any) -> set[str]:
    entry = next(iter(reply.values())) if isinstance(reply, dict) else reply[0]
    specs = entry[8] if isinstance(entry, list) else entry["key_specifications"]
    pairs = [dict(zip(spec[::2], spec[1::2], strict=True)) if isinstance(spec, list) else spec for spec in specs]
    return {flag.decode().lower() for spec in pairs for flag in spec[b"flags"]}


@pytest.mark.parametrize("role", Role)
def test_keys_of_other_policies_and_channels_are_refused(users: Users, role: Role) -> None:
    other = Keys(f"{users.policy}-2")
    with blocking.Redis.from_url(users.url_of(role)) as client:
        for right in sorted(right for right in rights_of(role) if right.kind and right.kind is not KeyKind.POLICIES):
            assert right.kind
            with pytest.raises(ResponseError, match=r"NOPERM|ermission|access"):
                send(client, right.command, right.kind.sample(other, "x"))
        with pytest.raises(NoPermissionError):
            client.publish("c", "x")


def test_an_exporter_writes_nothing_not_even_by_a_script(users: Users) -> None:
    jobs = Keys(users.policy).jobs(0)
    with blocking.Redis.from_url(users.url_of(Role.EXPORTER)) as client:
        for script in ("DEL", "XADD"):
            with pytest.raises(ResponseError, match=r"ermission|can't run"):
                client.eval(f"return redis.call('{script}', KEYS[1], '*', 'f', 'v')", 1, jobs)
        with pytest.raises(NoPermissionError):
            client.xadd(jobs, {"f": "v"})

    assert not users.admin.exists(jobs)


def send(client: Any, command: str, key: str) -> None:
    client.execute_command(*command.split(), *words(command, key))
