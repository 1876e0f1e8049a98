"""Real stub workers in the place of pods: started and drained on demand, taken away without warning, and paid for."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass
from typing import Self

from tests.support import pace
from tests.support.worker_process import WorkerProcess

DRAINED = 0
KILLED = -signal.SIGKILL
EARLY = -signal.SIGTERM
"""Exit code of a worker that was told to end before it could take a job."""
_DRAIN_S = 30


@dataclass(eq=False, slots=True)
class _Pod:
    worker: WorkerProcess
    since: float
    is_draining: bool = False


class Pods:
    """What a Deployment is: as many workers as it is told, those that were taken away started again. Use as `with`.

    `tend` and `scale` are called from one thread, which is the main one. A pod costs from its start until its process
    has ended, drain included.
    """

    def __init__(self, url: str, policy: str, flags: list[str], seed: int, measured_s: float) -> None:
        """`measured_s`: seconds of work after which a worker tells its speed."""
        self._url, self._policy, self._flags = url, policy, flags
        self._env = {pace.MEASURED_S: str(measured_s)}
        self._random = random.Random(seed)
        self._pods: list[_Pod] = []
        self._spent_s = 0.0
        self.wanted = 0
        self.started = 0
        self.ended: list[tuple[int, str]] = []
        """Exit code and log of each worker that has ended."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        for pod in self._pods:
            pod.worker.end()

    @property
    def alive(self) -> int:
        """Pods whose process runs, those that drain included: what is paid for."""
        return len(self._pods)

    @property
    def exits(self) -> Counter[int]:
        """How many workers ended with each exit code."""
        return Counter(code for code, _ in self.ended)

    @property
    def spent_s(self) -> float:
        """Seconds of all pods together."""
        return self._spent_s + sum(time.monotonic() - pod.since for pod in self._pods)

    def scale(self, wanted: int) -> None:
        """Have so many; the youngest are drained first, as a ReplicaSet does it."""
        self.wanted = wanted
        self.tend()

    def tend(self) -> None:
        """Note pods that have ended, and have as many as are wanted. Call often."""
        for pod in [pod for pod in self._pods if pod.worker.process.poll() is not None]:
            self._pods.remove(pod)
            self._spent_s += time.monotonic() - pod.since
            self.ended.append((pod.worker.process.returncode, pod.worker.log))
        staying = [pod for pod in self._pods if not pod.is_draining]
        for pod in staying[self.wanted :]:
            pod.worker.process.terminate()
            pod.is_draining = True
        for _ in range(self.wanted - len(staying)):
            self._pods.append(
                _Pod(WorkerProcess(self._url, self._policy, *self._flags, env=self._env), time.monotonic())
            )
            self.started += 1

    def interrupt(self) -> bool:
        """Kill one at random, as a provider takes a spot instance away. False if there is none."""
        staying = [pod for pod in self._pods if not pod.is_draining]
        if not staying:
            return False
        os.kill(self._random.choice(staying).worker.process.pid, signal.SIGKILL)
        return True

    def drain(self) -> None:
        """Have none; return once all have ended. One that does not end is killed, which its exit code tells."""
        self.scale(0)
        until = time.monotonic() + _DRAIN_S
        while self._pods and time.monotonic() < until:
            self.tend()
            time.sleep(0.02)
        for pod in self._pods:
            pod.worker.end()
        self.tend()
