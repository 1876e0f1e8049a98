"""Turns go on from each other, and wait for their session's worker, across the partitions of a cluster."""

from __future__ import annotations

import os
import signal
import time

from rollstream import Client, GroupResult, Turn
from rollstream.producer.demo.local_cluster import LocalCluster
from rollstream.schemas import Keys
from tests.support.fault_steps import LASTING_S, SLACK_S, is_of, log_of, stub_flags, tokens
from tests.support.stub_workers import serving

TURNS = 10


def test_a_conversation_goes_through_all_partitions_on_one_worker_and_then_on_the_other(
    cluster: LocalCluster, policy: str
) -> None:
    keys = Keys(policy, partitions=4)
    flags = (*stub_flags(lease_s=LASTING_S), "--heartbeat-s", "0.2", "--partitions", "4")
    with (
        Client(cluster.url, policy=policy, partitions=4) as client,
        serving(cluster.url, policy, *flags, count=2) as workers,
    ):
        before, answers, places = None, list[GroupResult](), set[int]()
        for number in range(TURNS):
            handle = client.submit(
                [[5 + number]], None, tokens(), session="s", session_wait_s=30.0, continue_of=[before]
            )
            answer = handle.wait(30)[0]
            assert isinstance(answer, GroupResult), answer
            answers.append(answer)
            places.add(keys.partition(handle.batch_id))
            before = Turn(batch_id=handle.batch_id, group=0, sample=0)

        assert len(places) > 1
        assert len({answer.worker for answer in answers}) == 1, log_of(*workers)
        assert answers[-1].prefix_length == (TURNS - 1) * (1 + 10)

        (owner,) = (worker for worker in workers if is_of(answers[0].worker, worker))
        os.kill(owner.process.pid, signal.SIGSTOP)
        began = time.monotonic()
        last = client.submit([[4]], None, tokens(), session="s", session_wait_s=1.0, continue_of=[before]).wait(30)[0]
        # Redis may have handed it to the owner's blocked read: its lease must end first.
        assert time.monotonic() - began < 1.0 + LASTING_S + SLACK_S
        os.kill(owner.process.pid, signal.SIGCONT)
        assert isinstance(last, GroupResult)
        assert last.prompt_ids[: last.prefix_length] == [
            *answers[-1].prompt_ids, *answers[-1].completions[0].token_ids,
        ]  # fmt: skip
