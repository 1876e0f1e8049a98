"""The main path: what trainers, workers, operators and exporters do with a policy, each as a user of its own."""

from __future__ import annotations

import asyncio
import contextlib

from rollstream import Client
from tests.support.fault_steps import kill, tokens
from tests.support.faults import Queue
from tests.support.roles.operator_steps import operate
from tests.support.roles.part_steps import EVERY_S, LONG, SLOWLY, count_parts, keep_parts, wait_for_parts
from tests.support.roles.place import Place
from tests.support.roles.sampling_steps import ROUTED, serve, submit_what_was_dropped
from tests.support.roles.upkeep_steps import clean, seldom
from tests.support.roles.weight_steps import publish_weights
from tests.support.watching.exporters import exporting
from tests.support.worker_process import WorkerProcess

POISON = 13


class MainPath(Place):
    """All of it, and the part that every day has."""

    def run(self) -> None:
        with Queue(self.redis_url, self.policy) as queue, self.client() as client:
            self._before_workers(client)
            with self.worker() as worker:
                serve(self, client)
                submit_what_was_dropped(self, client, queue)
                publish_weights(self, client, queue, worker)
                operate(self)
            keep_parts(self, client, queue)
            asyncio.run(seldom(self))
            self._deaths(client, queue)
            self._after_workers()
            asyncio.run(clean(self))
            asyncio.run(count_parts(self, queue))

    def short(self) -> None:
        """The part of it that every day has."""
        with self.client() as client:
            self._before_workers(client)
            with self.worker():
                serve(self, client)
                for words in (["pause"], ["resume"], ["status"], ["batches"], ["dead", "ls"], ["doctor"]):
                    self.ok(*words)
                with exporting(self.url_of("exporter"), self.policy) as exporter:
                    assert "rollstream_queue_jobs" in exporter.text()

    def _before_workers(self, client: Client) -> None:
        """Nobody is there yet."""
        self.ok("lease", "--set", "1")
        client.submit([[9]], None, ROUTED, batch_id="early")
        self.ok("cancel", "early")
        assert client.submit([[8], [9]], None, tokens(1), batch_id="cut").cancel(groups=[0]) == 1
        self.ok("cancel", "cut", "--groups", "0-1")

    def _deaths(self, client: Client, queue: Queue) -> None:
        """A worker is killed with a job that another goes on with; another job kills all that take it."""
        with contextlib.ExitStack() as stack:
            slow = WorkerProcess(self.redis_url, self.policy, *self.flags(*SLOWLY))
            stack.callback(slow.end)
            slow.wait_until_serving()
            handle = client.submit([[7]], None, LONG, batch_id="taken-over", keep_partials=EVERY_S)
            wait_for_parts(queue, slow, "taken-over", samples=1)
            kill(slow)
            with self.worker("--retention-s", "1", "--result-ttl-s", "1") as heir:
                done = handle.result(timeout=30)
                assert heir.process.poll() is None
            assert done.errors == {}
        poisonous = ["--stub-poison-token", str(POISON), "--max-deliveries", "1"]
        handle = client.submit([[POISON]], None, tokens(2), batch_id="poison")
        killer = WorkerProcess(self.redis_url, self.policy, *self.flags(*poisonous))
        killer.process.wait(30)
        killer.end()
        with self.worker(*poisonous):
            assert len(handle.result(timeout=30).errors) == 1

    def _after_workers(self) -> None:
        for words in (["dead", "ls"], ["dead", "requeue", "--all"], ["dead", "drop", "--all", "--yes"]):
            self.ok(*words)
        with self.worker() as worker:
            self.ok("drain", "--all", "--wait", "--timeout", "30")
            worker.process.wait(30)
