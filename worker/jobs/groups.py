"""Ends each group with one publish: its completions or scores, or the data error that explains why there are none."""

from __future__ import annotations

import time

import structlog

from rollstream.schemas import GroupError, GroupResult, GroupScores
from rollstream.transport.traces.names import SpanName

from ..delivery.answer_publisher import AnswerPublisher
from ..delivery.lease import GroupCutError, LeaseEndedError
from ..errors import DataError, LeaseLostError
from ..measure.measures import Measures
from .admitted_job import AdmittedJob, Plan
from .make_answers import GroupShare, group_error
from .shared_groups import SharedGroups

log = structlog.get_logger()


class Groups:
    """Has groups answered that have a place, and publishes their answers."""

    def __init__(self, *, publisher: AnswerPublisher, shared: SharedGroups, measures: Measures) -> None:
        """`shared`: puts groups together whose samples several jobs have."""
        self._publisher = publisher
        self._shared = shared
        self._measures = measures

    async def answer(self, admitted: AdmittedJob, plan: Plan | DataError, group: int) -> bool:
        """Answer a group and publish that, or its error. If the lease ends first, the worker with the next lease does.

        A group that is cut meanwhile has its answer. Returns whether the engine ran it to its end.

        Raises `LeaseLostError`, `UnpublishableError` and `EngineDiedError`.
        """
        answer: GroupResult | GroupScores | GroupError | None
        answered, is_joined, ran = time.monotonic(), False, False
        try:
            if isinstance(plan, DataError):
                raise plan
            with admitted.trace.group(SpanName.GENERATE, group) as span:
                found = await admitted.lease.during(plan.answer(admitted, group), stoppable=True, group=group)
                ran = True
                is_joined = isinstance(found, GroupShare)
                answer = await self._shared.joined(admitted, found) if isinstance(found, GroupShare) else found
                if answer is None:
                    return ran
                answer = span.sampled(answer)
            answered = time.monotonic()
        except DataError as error:
            answer = group_error(admitted.lease, admitted.envelope, admitted.job, group, error)
        except LeaseEndedError:
            self._publisher.fenced(admitted.lease, group)
            return ran
        except GroupCutError:
            self._publisher.cut(admitted.lease, 1)
            return ran
        with admitted.trace.group(SpanName.PUBLISH, group) as span:
            outcome = await self._publisher.publish(admitted.lease, admitted.envelope, answer, is_joined=is_joined)
            span.published(outcome)
        if outcome == "published" and not isinstance(answer, GroupError):
            self._measures.publish.add(time.monotonic() - answered)
        log.debug("group answered", batch=admitted.envelope.batch_id, group=group, kind=answer.kind, outcome=outcome)
        if outcome == "fenced":
            raise LeaseLostError(f"{admitted.lease} was fenced")
        return ran
