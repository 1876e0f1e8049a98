"""A job's entry names its batch and groups beside the payload, so that an unreadable payload is still answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from ..errors import NameRefusedError, WireError, shown
from ..keys import check_name
from .messages import MAX_GROUPS_PER_JOB

PAYLOAD = b"payload"


@dataclass(frozen=True, slots=True)
class Envelope:
    """The plain fields of a job's entry; ASCII decimal numbers."""

    batch_id: str
    job: int
    first_group: int
    job_groups: int
    num_groups: int

    def fields(self, payload: bytes) -> dict[bytes, bytes]:
        """What XADD takes."""
        return {
            b"batch": self.batch_id.encode(),
            b"job": b"%d" % self.job,
            b"first": b"%d" % self.first_group,
            b"groups": b"%d" % self.job_groups,
            b"total": b"%d" % self.num_groups,
            PAYLOAD: payload,
        }

    @classmethod
    def of(cls, fields: Mapping[bytes, bytes]) -> Self:
        """Raises `WireError` when a field is missing, no number or out of bounds."""
        payload = fields.get(PAYLOAD, b"")
        try:
            batch_id = check_name("batch_id", fields[b"batch"].decode())
            job, first, groups, total = (_number(fields[name]) for name in (b"job", b"first", b"groups", b"total"))
        except KeyError as error:
            raise WireError("job entry", f"field {error.args[0].decode()!r} is missing", payload) from None
        except (ValueError, NameRefusedError) as error:
            raise WireError("job entry", str(error), payload) from None
        if not (1 <= groups <= MAX_GROUPS_PER_JOB and first + groups <= total):
            raise WireError("job entry", f"groups {first} to {first + groups} of {total} are out of bounds", payload)
        return cls(batch_id, job, first, groups, total)

    @property
    def groups(self) -> range:
        """Group numbers of this job, counted over the batch."""
        return range(self.first_group, self.first_group + self.job_groups)


def _number(text: bytes) -> int:
    if not (text.isdigit() and len(text) <= 10 and int(text) < 2**31):
        raise ValueError(f"{shown(text)} is no number below 2**31")
    return int(text)
