"""The table against what is really sent: each role does all of its work under its own user, and no right is spare."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from rollstream.transport.acl import Right, Role, Server, rights_of
from tests.support.roles.main_path import MainPath
from tests.support.roles.users import Users, one_way, rights_in
from tests.transport.acl.sent import Sent

SELDOM = {
    "ASKING": "in a cluster, while a slot moves",
    "CLUSTER SLOTS": "in a cluster",
    "SELECT": "a URL may name a database",
    "HELLO": "through Sentinels, to ask for the role of a server; only 6.2 wants a right for it",
    "WAIT": "with --redis-wait",
    "DEL on ACTIVATIONS": "where the versions stream was deleted and begins afresh",
    "DEL on WORKERS": "where something else wrote the key",
    "EXPIRE on ADAPTER": "of an adapter that was a policy version, once another is active",
    "EXPIRE on MEDIA": "of an image that was sent or used more than a second before",
    "ZSCORE on WORKERS": "of a worker that is not among the 500 of the overview",
}
"""Rights that the path does not come to, each with when it is needed."""


def test_a_day_of_each_role_goes_without_a_refusal(path: MainPath, users: Users) -> None:
    path.short()

    assert users.refused() == set()


@pytest.mark.large
@pytest.mark.timeout(300)
def test_all_work_of_each_role_goes_without_a_refusal_and_no_right_is_spare(path: MainPath, users: Users) -> None:
    with Sent(users.url) as sent:
        path.run()

    assert users.refused() == set()
    if users.server is Server.SIX:
        pytest.skip("nothing was refused; MONITOR of 6.2 hides CLIENT SETNAME, so it cannot say who sent what")
    pairs = sent.pairs()
    missing, spare = set[str](), set[str]()
    for role in Role:
        given, used = {one_way(right) for right in rights_of(role)}, rights_in(pairs[role], users.policy)
        missing |= {f"{role}: {name}" for name in _names(used - given)}
        spare |= {f"{role}: {name}" for name in _names(given - used) - SELDOM.keys()}
    assert missing == set()
    assert spare == set()


def _names(rights: Collection[Right]) -> set[str]:
    return {f"{right.command} on {right.kind.name}" if right.kind else right.command for right in rights}
