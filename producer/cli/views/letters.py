"""How dead letters are shown: a table, one letter in full, and both as JSON. Unprintable bytes are shown as escapes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from rich.text import Text

from rollstream.schemas import Job, SchemaError, ScoreJob
from rollstream.schemas.wire.envelope import QueuedJob

from ...replay.dead_letters import Letter, Listed
from .fit import Cell, Lines, facts, wrapped

_LATEST_S = 1e11
"""Unix seconds; `datetime` has no year for what lies far beyond."""
_MOST_OF_NAME = 60
_MOST_LINES = 200
"""Lines of a traceback; --json has all of it."""


def listed_json(listed: Listed) -> dict[str, Any]:
    """One row of `dead ls --json`; fields of a letter that cannot be read are None."""
    letter = listed.read()
    row: dict[str, Any] = {
        "partition": listed.partition,
        "entry": listed.entry_id,
        "batch": listed.batch_id,
        "payload_bytes": listed.payload_bytes,
    }
    if isinstance(letter, SchemaError):
        nothing = dict.fromkeys(("error", "worker", "deliveries", "delivered_at", "buried_at", "job_entry"))
        return row | nothing | {"letter_problem": str(letter)}
    return row | {
        "error": letter.error,
        "worker": letter.worker,
        "deliveries": letter.deliveries,
        "delivered_at": _time(letter.delivered_at),
        "buried_at": _time(letter.buried_at),
        "job_entry": letter.entry_id,
        "letter_problem": None,
    }


def letter_json(letter: Letter) -> dict[str, Any]:
    """Everything about one letter except the bytes of its payload."""
    read, job = letter.listed.read(), letter.job
    known = None if isinstance(read, SchemaError) else read
    return listed_json(letter.listed) | {
        "policy": known and known.policy,
        "traceback": known and known.traceback,
        "fields": [[_text(name), _text(value)] for name, value in known.fields] if known else [],
        "payload_sha256": hashlib.sha256(letter.payload).hexdigest(),
        "payload": None if isinstance(job, SchemaError) else _job_json(job),
        "payload_problem": str(job) if isinstance(job, SchemaError) else None,
    }


def _job_json(job: QueuedJob) -> dict[str, Any]:
    return {
        "batch_id": job.batch_id,
        "job": job.job,
        "groups": f"{job.groups.start} to {job.groups.stop - 1} of {job.num_groups}",
        **(_sampled(job) if isinstance(job, Job) else _scored(job)),
        "adapter": job.adapter,
        "submitted_at": _time(job.submitted_at),
        "queue_deadline_s": job.queue_deadline_s,
        "run_deadline_s": job.run_deadline_s,
        "lineage": [f"{origin.batch_id} {origin.entry_id}" for origin in job.lineage],
    }


def _sampled(job: Job) -> dict[str, Any]:
    of, last = job.config.num_return_sequences, job.first_sample + job.sampled - 1
    samples = {} if job.samples is None else {"samples": f"{job.first_sample} to {last} of {of}"}
    return {
        **samples,
        "prompt_tokens": job.prompt_lengths.numpy().tolist(),
        "config": job.config.model_dump(mode="json", exclude_defaults=True),
        "seed_offset": job.seed_offset,
    }


def _scored(job: ScoreJob) -> dict[str, Any]:
    return {
        "row_tokens": job.row_lengths.numpy().tolist(),
        "firsts": job.firsts.numpy().tolist(),
        "top_logprobs": job.top_logprobs,
    }


def listed_lines(found: Iterable[Listed], width: int) -> Lines:
    """Facts about each letter, with the error below them."""
    lines = Lines()
    for listed in found:
        row = listed_json(listed)
        told: list[Cell] = [
            Text(listed.name, style="bold"),
            row["batch"] or "(no batch)",
            f"{listed.payload_bytes} bytes",
        ]
        if row["letter_problem"] is None:
            told += [f"{row['deliveries']} deliveries", f"last at {row['worker']}", f"buried {row['buried_at']}"]
        error = row["error"] or f"unreadable letter: {row['letter_problem']}"
        lines += [*facts(told, width), *(Text.assemble("  ", line) for line in wrapped(error, width - 2))]
    return lines


def letter_lines(letter: Letter, width: int) -> Lines:
    """One letter in full, one field a line; of a very long text its beginning."""
    return [line for told in _told(letter) for line in wrapped(told, width, indent=2)]


def _told(letter: Letter) -> Iterator[str]:
    shown = letter_json(letter)
    for name in shown:
        if name not in {"fields", "traceback", "payload"}:
            yield f"{name}: {_value(shown[name])}"
    for name, value in shown["fields"]:
        yield f"field {name[:_MOST_OF_NAME]}: {value}"
    for name, value in (shown["payload"] or {}).items():
        yield f"payload {name}: {_value(value)}"
    yield "traceback:"
    lines = (shown["traceback"] or "none").splitlines()
    yield from (f"  {line}" for line in lines[:_MOST_LINES])
    if len(lines) > _MOST_LINES:
        yield f"and {len(lines) - _MOST_LINES} more lines"


def _value(value: object) -> str:
    return "-" if value is None else str(value)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def _time(moment: float) -> str | None:
    """ISO 8601 in UTC; None for a number that is no time."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds") if 0 <= moment < _LATEST_S else None
