"""Cuts on a cluster: in each partition, by hand and by the worker that has enough."""

from __future__ import annotations

from rollstream import Client, GenerationConfig
from rollstream.producer.demo.local_cluster import LocalCluster
from rollstream.worker.engines.stub_tail import runs_long
from tests.support.stub_workers import serving

PARTITIONS = 4
SHORT = [n for n in range(60) if not runs_long([n], None)]
LONG = [n for n in range(60) if runs_long([n], None)]
CONFIG = GenerationConfig(max_new_tokens=800, eos_token_id=(2,))
"""At 200 tokens a second 0.5 s, and 4 s for those that run long."""


def test_groups_of_every_partition_are_cut(cluster: LocalCluster, policy: str) -> None:
    prompts = [[SHORT[0]], [LONG[0]], [SHORT[1]], [LONG[1]]]
    flags = ["--partitions", str(PARTITIONS), "--stub-long-tail", "prompts", "--stub-vocab-size", "32000"]
    with (
        Client(cluster.url, policy=policy, partitions=PARTITIONS) as client,
        serving(cluster.url, policy, *flags, "--stub-tokens-per-s", "200"),
    ):
        by_hand = [client.submit(prompts, None, CONFIG, batch_id=f"hand-{n}", prompts_per_job=2) for n in range(6)]
        enough = [
            client.submit(prompts, None, CONFIG, batch_id=f"enough-{n}", prompts_per_job=2, first_groups=2)
            for n in range(6)
        ]
        assert [handle.cancel(groups=[1, 3]) for handle in by_hand] == [2] * 6
        results = [handle.result(timeout=60) for handle in (*by_hand, *enough)]

    assert {tuple(rollouts.errors) for rollouts in results} == {(1, 3)}
    assert {error.code for rollouts in results for error in rollouts.errors.values()} == {"not_needed"}
