"""The doctor's checks of policy versions: those that workers refuse, and those for which jobs wait. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from rollstream.schemas.pause_reason import PauseReason
from rollstream.schemas.wire.proofs.probe import NOT_REPRODUCED, UNPROVABLE

from ..operations.queue_state import WorkerSeen, age, refusals
from ..policies.parked import Parked
from .finding import FAIL, OLD_S, WARN, Finding, graded, some
from .seen import PartitionSeen, Probe

_MEND_A_PROOF = (
    "these weights give other log-probs here than in the trainer: compare this worker's model, dtype and vLLM with the "
    "other workers'; where it is only as far off as two engines are, publish with a wider tolerance of the probe"
)

_MEND_A_PROBE = (
    "this says nothing of the weights: publish them under a newer number with a probe of the workers' own model whose "
    "rows are shorter than their --max-model-len (rollstream probe --row-tokens), or mend what the reason says"
)


def policy_findings(found: Probe) -> Iterator[Finding]:
    """The findings, in the order in which an operator should mend them."""
    yield from _refused(found)
    yield from _pending(found)
    yield _version_gate(found)
    yield _trimming(found)


def _refused(found: Probe) -> Iterator[Finding]:
    """A worker that refuses a version goes on with an older one, or takes no jobs when there is none to serve."""
    stopped = {worker.consumer for worker in found.workers if _takes_nothing(worker)}
    level = FAIL if found.workers and len(stopped) == len(found.workers) else WARN
    remedy = (
        "mend what the reason says: workers try again by themselves, soon when files change, else within 5 minutes; "
        f"or publish a newer version that they can load (rollstream versions --policy {found.policy})"
    )
    reasons = refusals(found.workers)
    for (version, why), names in reasons.items():
        idle = len(stopped.intersection(names))
        so = f"; {idle} of them take no jobs for it" if idle else ""
        seen = f"{len(names)} of {len(found.workers)} workers refuse version {version}{so}: {some(names)}: {why}"
        yield Finding(check="refused version", level=level, seen=seen, remedy=_mend_a_probe(why) or remedy)
    if loading := sorted(stopped.difference(*reasons.values())):
        seen = f"{len(loading)} of {len(found.workers)} workers take no jobs until one is served: {some(loading)}"
        remedy = "they are loading it: look again later; if nothing changes, see their logs"
        yield Finding(check="announced version", level=WARN, seen=seen, remedy=remedy)


def _mend_a_probe(why: str) -> str:
    """What mends a refusal for its probe; empty for any other. The reason of one replica is within another's."""
    if UNPROVABLE in why:
        return _MEND_A_PROBE
    return _MEND_A_PROOF if NOT_REPRODUCED in why else ""


def _pending(found: Probe) -> Iterator[Finding]:
    """A version that is announced and not active: who has prepared it, and what it waits for."""
    for one in found.pending[:1]:
        ready = sum((worker.report.prepared_version or 0) >= one.version for worker in found.workers)
        terms = one.activate
        waits = "its activation by hand" if terms.when == "by_hand" else f"{terms.share:.0%} of them to prepare it"
        by = f"{ready} of {len(found.workers)} workers"
        yield graded(
            "activation",
            f"version {one.version}, announced {age(one.announced_s_ago)} ago, is prepared by {by}, waits for {waits}",
            warn=one.announced_s_ago > OLD_S,
            remedy=f"rollstream activate {one.version} --policy {found.policy}, or publish a newer version; "
            f"rollstream versions --policy {found.policy} says why a worker has not prepared it",
        )


def _takes_nothing(worker: WorkerSeen) -> bool:
    return PauseReason.POLICY in worker.report.paused_for


def _version_gate(found: Probe) -> Finding:
    """Warn when jobs wait for a version that nobody announced or activated.

    If no version is announced (any more), workers keep the version they serve, and take jobs that wait for it.
    """
    parked = [parked for seen in found.partitions for parked in seen.queue.parked]
    served = [worker.report.policy_version or 0 for worker in found.workers]
    newest = found.newest_version or max(served, default=0)
    unknown = [] if found.newest_version is None else [one for one in parked if one.version > newest]
    ahead = found.pending[0].version if found.pending else 0
    if unknown and all(one.version <= ahead for one in unknown):
        return graded(
            "version gate",
            f"jobs wait for policy version {_versions(unknown)}; the newest active is {newest}, {ahead} is announced",
            warn=True,
            remedy=f"rollstream activate {ahead} --policy {found.policy}, or give the jobs up: "
            f"{_cancel(found, unknown)}",
        )
    if not unknown:
        waiting = f"jobs wait for policy version {_versions(parked)}" if parked else "no job waits for a policy version"
        return graded("version gate", waiting, remedy="")
    return graded(
        "version gate",
        f"jobs wait for policy version {_versions(unknown)}; the newest announced is {max(newest, ahead)}",
        warn=True,
        remedy=f"publish it, or give the jobs up: {_cancel(found, unknown)}",
    )


def _trimming(found: Probe) -> Finding:
    """Trimming stops at the oldest pending job: one that waits long keeps all finished jobs behind it."""
    held = [seen for seen in found.partitions if _finished(seen) and _oldest_s(seen) > OLD_S]
    kept = sum(map(_finished, held))
    parked = [parked for seen in held for parked in seen.queue.parked]
    oldest_s = max(map(_oldest_s, held), default=0.0)
    return graded(
        "trimming",
        f"jobs parked for up to {age(oldest_s)} keep the finished ones behind them, whatever the retention: {kept} here"
        if held
        else "no parked job holds it back",
        warn=bool(held),
        remedy=f"publish the version that they wait for, or give up the jobs: {_cancel(found, parked)}",
    )


def _oldest_s(seen: PartitionSeen) -> float:
    return max((parked.oldest_s for parked in seen.queue.parked), default=0.0)


def _finished(seen: PartitionSeen) -> int:
    """An upper bound: where Redis does not count the waiting jobs, these are included."""
    return max(0, seen.queue.entries - seen.queue.pending - (seen.queue.waiting or 0))


def _versions(parked: list[Parked]) -> str:
    return some(f"{one.version} ({one.jobs})" for one in parked)


def _cancel(found: Probe, parked: list[Parked]) -> str:
    batches = some(one.oldest_batch for one in parked if one.oldest_batch)
    return f"rollstream cancel --policy {found.policy} BATCH_ID, for the oldest: {batches}"
