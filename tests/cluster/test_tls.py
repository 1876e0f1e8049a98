"""A cluster whose nodes speak TLS alone, with certificates of both sides: batches, blocking reads, a worker, doctor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from rollstream import AsyncClient, Client, RedisUnavailableError
from rollstream.transport.redis.access import RedisAccess
from tests.support.command_line import Command
from tests.support.fault_steps import stub_flags, tokens
from tests.support.redis_access.certificates import Authority
from tests.support.redis_access.main_path import set_variables
from tests.support.redis_access.tls_redis import TlsCluster
from tests.support.worker_process import WorkerProcess


@pytest.fixture(scope="module")
def access(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisAccess]:
    authority = Authority(tmp_path_factory.mktemp("tls"))
    me = authority.pair("me")
    with TlsCluster(authority, authority.pair("server")) as cluster:
        yield RedisAccess(url=cluster.url, ca=authority.ca, cert=me.cert, key=me.key)


def test_batches_go_through_all_nodes_in_tls(access: RedisAccess, policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(access, monkeypatch)
    worker = WorkerProcess(access.url, policy, *stub_flags(), "--partitions", "6")
    try:
        with Client(access, policy=policy, partitions=6, reconnect_s=10) as client:
            found = [client.generate([[1], [2]], None, tokens(3), timeout=60) for _ in range(8)]
        doctor = Command(access.url, policy)("doctor", "--partitions", "6")
        code = worker.terminate()
    finally:
        worker.end()

    assert [batch.errors for batch in found] == [{}] * 8
    assert doctor.exit_code == 0, doctor.output
    assert code == 0


async def test_a_cluster_that_is_not_trusted_or_does_not_trust_us_is_told_of(access: RedisAccess, policy: str) -> None:
    said = []
    for wrong in (replace(access, ca=None), replace(access, cert=None, key=None)):
        with pytest.raises(RedisUnavailableError) as caught:
            async with AsyncClient(wrong, policy=policy) as client:
                await client.newest_version()
        said.append(f"{caught.value.problem}: {caught.value.advice}")

    assert "not to be trusted" in said[0]
    assert "wants a certificate of ours" in said[1]
