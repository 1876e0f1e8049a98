"""The names of spans and of their attributes, as docs/tracing.md lists them."""

from __future__ import annotations

from enum import StrEnum


class SpanName(StrEnum):
    """What a span measures; the order is that of a batch's way."""

    SUBMIT = "submit"
    """A producer's call, until all jobs are queued."""
    QUEUE = "queue"
    """One delivery of a job: from the entry's id until a worker had it, by Redis' clock."""
    JOB = "job"
    """One delivery of a job: from when a worker had it until nothing was left to do for it there."""
    PREPARE = "prepare"
    """The first part of `job`: opened, checked, its adapter loaded."""
    GENERATE = "generate"
    """A group in the engine."""
    PUBLISH = "publish"
    """A group's answer, until Redis has it."""
    READ = "read"
    """A producer's wait for a batch, from the first call until the last group was read."""


class Attribute(StrEnum):
    """Attributes of our own. Those of OpenTelemetry's conventions are in `Convention`."""

    POLICY = "rollstream.policy"
    BATCH_ID = "rollstream.batch_id"
    JOBS = "rollstream.jobs"
    """How many jobs a batch has."""
    GROUPS = "rollstream.groups"
    """How many groups a batch or a job has."""
    JOB = "rollstream.job"
    """The job's number in its batch, from 0."""
    GROUP = "rollstream.group"
    """The group's number in its batch, from 0."""
    WORKER = "rollstream.worker"
    """The worker's name as consumer."""
    DELIVERY = "rollstream.delivery"
    """1 for the first delivery of the job."""
    POLICY_VERSION = "rollstream.policy_version"
    """On `job` the version that was served when it was prepared, on `generate` the newest that sampled its tokens."""
    TOKENS = "rollstream.tokens"
    """Tokens sampled, or scored."""
    OUTCOME = "rollstream.outcome"
    """How a delivery or a publish ended, see `Outcome` and docs/tracing.md."""


class Convention(StrEnum):
    """Attributes of OpenTelemetry's semantic conventions for messaging and errors."""

    SYSTEM = "messaging.system"
    OPERATION = "messaging.operation.name"
    OPERATION_TYPE = "messaging.operation.type"
    DESTINATION = "messaging.destination.name"
    MESSAGE_ID = "messaging.message.id"
    MESSAGE_COUNT = "messaging.batch.message_count"
    CONSUMER_GROUP = "messaging.consumer.group.name"
    ERROR_TYPE = "error.type"


class Outcome(StrEnum):
    """How one delivery of a job ended."""

    ANSWERED = "answered"
    LEFT = "left"
    """Its lease ended: the worker that has the next delivery answers the rest."""
    PARKED = "parked"
    """It waits for a newer policy version."""
    GIVEN_BACK = "given_back"
    """Any worker may have it at once: there was no room, or, with the status `error`, the worker ended first."""
    DEAD = "dead"
    """It was given up on, and is kept as a dead letter."""


SYSTEM = "redis"
