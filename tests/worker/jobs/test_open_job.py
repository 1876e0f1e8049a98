"""An entry is a job, or a data error that can answer its groups, or (without an envelope) a dead letter."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollstream.schemas import Envelope, ErrorCode, Job, WireError, encode
from rollstream.worker.errors import DataError
from rollstream.worker.jobs.open_job import open_job
from tests.schemas.wire.messages import MESSAGES

[JOB] = [message for message in MESSAGES if isinstance(message, Job)]
ENVELOPE = Envelope(batch_id="b-1", job=0, first_group=0, job_groups=2, num_groups=2)


def test_a_payload_that_agrees_with_its_envelope_is_a_job() -> None:
    assert open_job(ENVELOPE, ENVELOPE.fields(encode(JOB))) == JOB


@pytest.mark.parametrize("traceparent", [None, f"00-{'4b' * 16}-{'0a' * 8}-01"])
def test_an_envelope_reads_back_what_it_wrote(traceparent: str | None) -> None:
    envelope = Envelope.of_job(JOB, traceparent)

    assert Envelope.of(envelope.fields(b"")) == envelope
    assert envelope == Envelope(
        batch_id="b-1",
        job=0,
        first_group=0,
        job_groups=2,
        num_groups=2,
        kind="job",
        lane="default",
        tokens=2 * 2 * 4,
        traceparent=traceparent,
    )


def test_an_entry_of_an_older_producer_is_read() -> None:
    old = {b"batch": b"b-1", b"job": b"0", b"first": b"0", b"groups": b"2", b"total": b"2", b"payload": encode(JOB)}

    assert Envelope.of(old) == ENVELOPE
    assert open_job(Envelope.of(old), old) == JOB


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"", ErrorCode.UNREADABLE_JOB),
        (b"\x81", ErrorCode.UNREADABLE_JOB),
        (msgpack.packb({"v": 9, "kind": "job"}), ErrorCode.UNREADABLE_JOB),
        (encode(JOB.model_copy(update={"batch_id": "other"})), ErrorCode.UNREADABLE_JOB),
        (
            msgpack.packb({**msgpack.unpackb(encode(JOB)), "config": {"max_new_tokens": 0}}),
            ErrorCode.INVALID_CONFIG,
        ),
    ],
    ids=["empty", "truncated", "wire version", "disagrees", "config"],
)
def test_a_payload_that_is_no_job_says_why(payload: bytes, code: ErrorCode) -> None:
    with pytest.raises(DataError) as caught:
        open_job(ENVELOPE, ENVELOPE.fields(payload))

    assert caught.value.code is code


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"batch", None),
        (b"batch", b"a/b"),
        (b"batch", b"\xff"),
        (b"first", b"-1"),
        (b"groups", b"0"),
        (b"groups", b"5000"),
        (b"total", b"1"),
        (b"job", b"99999999999999"),
        (b"job", "\u0663".encode()),
    ],
)
def test_an_entry_without_a_usable_envelope_is_refused(field: bytes, value: bytes | None) -> None:
    fields = {**ENVELOPE.fields(b"kept"), field: value}

    with pytest.raises(WireError) as caught:
        Envelope.of({name: content for name, content in fields.items() if content is not None})

    assert caught.value.data == b"kept"


@pytest.mark.parametrize("kind", [b"a job", b"\xff", b""])
def test_a_kind_that_is_no_name_is_answered_as_an_unknown_one(kind: bytes) -> None:
    fields = ENVELOPE.fields(encode(JOB)) | {b"kind": kind}

    with pytest.raises(DataError) as caught:
        open_job(Envelope.of(fields), fields)

    assert caught.value.code is ErrorCode.UNSUPPORTED


@pytest.mark.parametrize(
    ("field", "value"),
    [(b"lane", b""), (b"lane", b"x" * 129), (b"lane", b"\xff"), (b"tokens", b"-1"), (b"tokens", b"1" * 15)],
)
def test_what_is_only_counted_stops_no_job(field: bytes, value: bytes) -> None:
    fields = ENVELOPE.fields(encode(JOB)) | {field: value}
    assert Envelope.of(fields) == ENVELOPE
    assert open_job(Envelope.of(fields), fields) == JOB


@given(st.dictionaries(st.sampled_from([*ENVELOPE.fields(b"")]), st.binary(max_size=12)))
def test_whatever_an_entry_holds_nothing_else_is_raised(fields: dict[bytes, bytes]) -> None:
    try:
        open_job(Envelope.of(fields), fields)
    except (WireError, DataError):
        return
    raise AssertionError("random bytes made a job")


@pytest.mark.parametrize("garbage", [b"00-" + b"A" * 32 + b"-" + b"0" * 16 + b"-01", b"\xff", b""])
def test_a_job_whose_trace_nobody_can_read_is_read_without_it(garbage: bytes) -> None:
    fields = Envelope.of_job(JOB).fields(b"") | {b"traceparent": garbage}
    assert Envelope.of(fields) == Envelope.of_job(JOB)
