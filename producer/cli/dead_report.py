"""How dead letters are shown: a table, one letter in full, and both as JSON. Unprintable bytes are shown as escapes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from rollstream.schemas import Job, SchemaError
from rollstream.schemas.printable import printable

from ..replay.dead_letters import Letter, Listed

_LATEST_S = 1e11
"""Unix seconds; `datetime` has no year for what lies far beyond."""


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


def _job_json(job: Job) -> dict[str, Any]:
    return {
        "batch_id": job.batch_id,
        "job": job.job,
        "groups": f"{job.groups.start} to {job.groups.stop - 1} of {job.num_groups}",
        "prompt_tokens": job.prompt_lengths.numpy().tolist(),
        "config": job.config.model_dump(mode="json", exclude_defaults=True),
        "adapter": job.adapter,
        "submitted_at": _time(job.submitted_at),
        "queue_deadline_s": job.queue_deadline_s,
        "run_deadline_s": job.run_deadline_s,
        "seed_offset": job.seed_offset,
        "lineage": [f"{origin.batch_id} {origin.entry_id}" for origin in job.lineage],
    }


def letters_table(found: Iterable[Listed]) -> Table:
    """Two lines for each letter, since an error needs the whole width."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("entry", no_wrap=True)
    table.add_column("batch and error", overflow="fold")
    for listed in found:
        row = listed_json(listed)
        facts = [row["batch"] or "(no batch)", f"{listed.payload_bytes} bytes"]
        if row["letter_problem"] is None:
            facts += [f"{row['deliveries']} deliveries", f"last at {row['worker']}", f"buried {row['buried_at']}"]
        error = row["error"] or f"unreadable letter: {row['letter_problem']}"
        table.add_row(listed.name, Text(f"{printable(', '.join(facts))}\n{printable(error)}"))
    return table


def letter_lines(letter: Letter) -> list[str]:
    """One letter in full for a terminal, one field a line."""
    shown = letter_json(letter)
    lines = [f"{name}: {_value(shown[name])}" for name in shown if name not in {"fields", "traceback", "payload"}]
    lines += [f"field {printable(name)}: {printable(value)}" for name, value in shown["fields"]]
    lines += [f"payload {name}: {_value(value)}" for name, value in (shown["payload"] or {}).items()]
    lines += ["traceback:", *(f"  {printable(line)}" for line in (shown["traceback"] or "none").splitlines())]
    return lines


def _value(value: object) -> str:
    return "-" if value is None else printable(str(value))


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def _time(moment: float) -> str | None:
    """ISO 8601 in UTC; None for a number that is no time."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds") if 0 <= moment < _LATEST_S else None
