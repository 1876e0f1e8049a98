"""A local cluster becomes whole, however late its nodes answer each other."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from rollstream.producer.demo.local_cluster import ClusterNode, LocalCluster
from tests.support.worker_process import wait_for


def test_nodes_that_forgot_their_introduction_are_introduced_again(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = LocalCluster()
    silent, *others = cluster.nodes
    ask = ClusterNode.ask
    thawed: list[Future[None]] = []

    def forgotten() -> bool:
        return all(len(ask(node, "CLUSTER", "NODES").splitlines()) == 1 for node in others)

    def thaw_once_forgotten() -> None:
        try:
            wait_for(forgotten, 30, lambda: "the introduction was not forgotten")
        finally:
            silent.thaw()

    def ask_then_freeze(node: ClusterNode, *command: str | int) -> Any:
        answer = ask(node, *command)
        if node is others[-1] and command[1] == "MEET" and not thawed:
            silent.freeze()
            thawed.append(thread.submit(thaw_once_forgotten))
        return answer

    monkeypatch.setattr(ClusterNode, "ask", ask_then_freeze)
    with ThreadPoolExecutor(1) as thread, cluster:
        thawed[0].result(30)
