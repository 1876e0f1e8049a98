"""What the help and the page promise to a role on the command line works with its rights alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rollstream import Client
from rollstream.transport.acl import Role
from tests.support.command_line import Command
from tests.support.fault_steps import stub_flags, tokens
from tests.support.worker_process import running_worker, wait_for
from tests.transport.acl.roles import Users


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
