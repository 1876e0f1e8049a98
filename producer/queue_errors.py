"""Errors that last until an operator changes the state of the queue or of Redis."""

from __future__ import annotations

from .errors import ProducerError, RedisUnavailableError


class LostJobsError(ProducerError):
    """Raised when groups of a batch have no answer and no job is left that could answer them.

    Somebody removed, acknowledged or skipped its entries by hand (XTRIM, XDEL, XACK, XGROUP), or its jobs became dead
    letters that could not be answered. Or a failover lost `forgotten` of its jobs, which Redis had acknowledged.
    `done` of `total` groups have an answer.
    """

    def __init__(self, batch_id: str, policy: str, done: int, total: int, forgotten: int = 0) -> None:
        why = (
            f"{total - done} of {total} groups will never be answered: its jobs are no longer in the queue, removed by "
            "hand or dead letters (rollstream dead ls). Cancel it, then `result` gives the others; submit what is "
            "missing under another batch_id"
        )
        if forgotten:
            why = (
                f"Redis has lost {forgotten} of its jobs after it acknowledged them, as a failover to a replica may; "
                f"{done} of {total} groups are answered. Submit the same prompts again under this batch_id, which "
                "queues what is missing"
            )
        super().__init__(f"batch {batch_id!r} of policy {policy!r}: {why}")
        self.batch_id = batch_id
        self.policy = policy
        self.done = done
        self.total = total
        self.forgotten = forgotten


class UnconfirmedSubmitError(RedisUnavailableError):
    """Raised when too few replicas of Redis have a submission in time (`redis_wait`).

    It may be queued already, and a failover may lose it. Submitting the same content under `batch_id` again is safe: it
    queues what is missing, and waits again.
    """

    def __init__(self, batch_id: str, url: str, problem: str) -> None:
        advice = (
            f"it may be queued already: submit it again under batch_id={batch_id!r}, which doubles nothing; see that "
            "the replicas run and keep up (rollstream doctor), or wait for fewer (redis_wait)"
        )
        super().__init__("submit", url, problem, advice)
        self.batch_id = batch_id


class TooLargeForRedisError(ProducerError):
    """Raised when Redis, or a proxy in front of it, does not take a command of this size.

    `limit` is the most that it takes, 0 if unknown; `setting` is the option of Redis that sets the limit. Nothing was
    queued or stored: send smaller pieces, or raise the limit and try again.
    """

    def __init__(self, what: str, url: str, problem: str, nbytes: int, limit: int, setting: str) -> None:
        super().__init__(f"cannot {what}: Redis at {url}: {problem}")
        self.what = what
        self.url = url
        self.problem = problem
        self.nbytes = nbytes
        self.limit = limit
        self.setting = setting


class LeaseInUseError(ProducerError):
    """Raised when the lease of a policy should change while workers with another one are alive; nothing was changed.

    `workers`: those workers, each with the `--lease-s` that it reports.
    """

    def __init__(self, policy: str, seconds: float, workers: dict[str, str]) -> None:
        told = ", ".join(f"{name} ({lease or '?'} s)" for name, lease in sorted(workers.items())[:5])
        super().__init__(
            f"the lease of policy {policy!r} cannot be set to {seconds:g} s while workers with another live, for they "
            f"would take each other's jobs: {told}; drain them first: rollstream drain --all --wait --policy {policy}"
        )
        self.policy = policy
        self.seconds = seconds
        self.workers = workers


class RoutingError(ProducerError):
    """Raised when the experts that a group's tokens went to cannot be had; its completions are there all the same."""

    def __init__(self, batch_id: str, group: int, problem: str) -> None:
        super().__init__(f"the routing of group {group} of batch {batch_id!r}: {problem}")
        self.batch_id = batch_id
        self.group = group
        self.problem = problem
