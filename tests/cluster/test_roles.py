"""Each role does its work on a cluster under its own user, and nothing that it sends to any node is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rollstream.producer.demo.local_cluster import LocalCluster
from rollstream.schemas import Keys
from rollstream.schemas.key_kinds import KeyKind
from rollstream.transport.acl import Right, Role
from tests.support.command_line import Command
from tests.support.roles.main_path import MainPath
from tests.support.roles.users import Users, on_each

PARTITIONS = 4


@pytest.fixture
def users(cluster: LocalCluster, policy: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Users]]:
    """Those of each node."""
    monkeypatch.setenv("ROLLSTREAM_PARTITIONS", str(PARTITIONS))
    with on_each(cluster.nodes, policy) as users:
        yield users


def url_of(cluster: LocalCluster, role: str) -> str:
    return cluster.url.replace("//", f"//{role}:pw@")


@pytest.mark.large
def test_a_day_of_each_role_goes_without_a_refusal_of_any_node(
    cluster: LocalCluster, users: list[Users], policy: str, tiny_model: Path, tmp_path: Path
) -> None:
    keys = Keys(policy, partitions=PARTITIONS)
    reports = cluster.node_of(keys.worker("any"))
    path = MainPath(
        redis_url=reports.url, url_of=lambda role: url_of(cluster, role), policy=policy, model=tiny_model,
        folder=tmp_path, partitions=PARTITIONS,
    )  # fmt: skip

    path.short()

    assert [each.refused() for each in users] == [set()] * 3
    jobs = {cluster.node_of(keys.jobs(number)).port for number in range(PARTITIONS)}
    assert len(jobs) > 1, "the jobs lie on one node"


def test_a_right_that_a_single_node_does_not_give_is_named(
    cluster: LocalCluster, users: list[Users], policy: str
) -> None:
    users[2].allow(Role.WORKER, without=[Right(command="XTRIM", kind=KeyKind.JOBS)])

    said = Command(url_of(cluster, "worker"), policy)("doctor", "--role", "worker")

    assert said.exit_code == 1, said.output
    assert "XTRIM on rs:{" in said.output
