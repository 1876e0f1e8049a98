"""What the help and the page promise to a role on the command line works with its rights alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis as blocking
from redis.exceptions import NoPermissionError, ResponseError

from rollstream import Client
from rollstream.schemas import Keys
from rollstream.transport.acl import Role, Server
from tests.support.command_line import Command
from tests.support.fault_steps import stub_flags, tokens
from tests.support.roles.users import Users
from tests.support.worker_process import running_worker, wait_for


@pytest.fixture
def busy(users: Users) -> Iterator[Users]:
    """A queue with a worker, a finished batch and a parked job, so that every part of a reading finds something."""
    flags = ["--redis", users.url_of(Role.WORKER), *stub_flags()]
    with running_worker(users.url, users.policy, *flags), Client(users.url, policy=users.policy) as client:
        client.generate([[1]], None, tokens(2), timeout=20)
        client.submit([[1]], None, tokens(2), min_policy_version=9)
        status = Command(users.url, users.policy)
        wait_for(lambda: "parked: 1 jobs" in status("status").stdout, 20, lambda: status("status").stdout)
        users.admin.execute_command("ACL", "LOG", "RESET")
        yield users


def test_an_exporter_may_run_all_that_is_promised_to_it(busy: Users) -> None:
    command = Command(busy.url_of(Role.EXPORTER), busy.policy)
    for words in ("status", "status --json", "top --once", "batches", "backlog"):
        done = command(*words.split())

        assert (done.exit_code, done.stderr) == (0, ""), (words, done.output)
        assert busy.refused() == set(), words


KEYS = Keys("POLICY")
JOBS, RESULTS, LEDGER = KEYS.jobs(0), KEYS.results("b"), KEYS.ledger("b")
PAUSE, DRAIN = ("HSETNX", KEYS.control(), "paused", "1"), ("HSET", KEYS.worker("another"), "drain", "1")
ANSWER, FORGET = ("XADD", RESULTS, "*", "payload", "x"), ("EXPIRE", RESULTS, "1")
ACTIVATE = ("XADD", KEYS.activations(), "*", "payload", "x")
ANNOUNCE = ("XADD", KEYS.versions(), "*", "payload", "x"), ("SET", KEYS.adapter("a@1"), "x")
WEIGHTS = ("SET", KEYS.weights_item("x"), "x")
QUEUE = ("XADD", JOBS, "*", "payload", "x")
ALLOWED = {
    Role.PRODUCER: (
        ("XRANGE", JOBS, "-", "+"), ("XREAD", "STREAMS", RESULTS, "0"), ANSWER, ACTIVATE, *ANNOUNCE,
        ("UNLINK", KEYS.weights_item("x")), ("HSETNX", LEDGER, "cancelled", "1"),
    ),
    Role.WORKER: (
        PAUSE, DRAIN, ACTIVATE, ANSWER, FORGET, ("EXPIRE", KEYS.adapter("a@1"), "1"), ("EXPIRE", LEDGER, "1"),
        ("XTRIM", JOBS, "MAXLEN", "0"),
    ),
    Role.OPERATOR: (ANSWER, FORGET),
    Role.EXPORTER: (("XRANGE", JOBS, "-", "+"), ("XREVRANGE", KEYS.dead(0), "+", "-")),
}  # fmt: skip
REFUSED = {
    Role.PRODUCER: (PAUSE, DRAIN),
    Role.WORKER: (("HDEL", KEYS.control(), "paused"), QUEUE, *ANNOUNCE, WEIGHTS),
    Role.OPERATOR: (*ANNOUNCE, WEIGHTS),
    Role.EXPORTER: (PAUSE, DRAIN, ANSWER, FORGET, ACTIVATE, *ANNOUNCE, WEIGHTS, QUEUE),
}


@pytest.mark.parametrize("role", Role)
def test_what_a_stolen_password_allows_is_what_the_page_says(users: Users, role: Role) -> None:
    """Redis knows commands and keys, and no fields."""
    with blocking.Redis.from_url(users.url_of(role)) as thief:
        for words in ALLOWED[role]:
            thief.execute_command(*(word.replace("POLICY", users.policy) for word in words))
        if users.server is Server.SIX:
            return  # it has one list of commands for one list of keys, as the page says
        for words in REFUSED[role]:
            sent = [word.replace("POLICY", users.policy) for word in words]
            with pytest.raises(NoPermissionError):
                thief.execute_command(*sent)
            command, key, *rest = sent
            with pytest.raises(ResponseError, match="ermission"):
                thief.eval("return redis.call(ARGV[1], KEYS[1], unpack(ARGV, 2))", 1, key, command, *rest)
