"""Types that fields of several messages share, with the bounds that every reader checks."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from ..entry_id import EntryId
from ..errors import NameRefusedError
from ..keys import check_adapter, check_name
from ..printable import printable

MAX_GROUPS_PER_JOB = 4096

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def check_traceparent(value: object) -> str:
    """`value` if it is a W3C trace context. Raises `NameRefusedError`."""
    if isinstance(value, str) and _TRACEPARENT.fullmatch(value):
        return value
    rule = "write 00-<32 hex digits>-<16 hex digits>-<2 hex digits>, in lower case, or leave it out"
    raise NameRefusedError("traceparent", value, rule)


EntryIdText = Annotated[str, AfterValidator(lambda value: str(EntryId.of(value)))]
BatchId = Annotated[str, AfterValidator(lambda value: check_name("batch_id", value))]
AdapterName = Annotated[str, AfterValidator(check_adapter)]
Traceparent = Annotated[str, AfterValidator(check_traceparent)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Shown = Annotated[str, AfterValidator(printable)]
"""A text for people: control characters, which a terminal would obey, become escapes."""
Index = Annotated[int, Field(ge=0, lt=2**31)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
Seconds = Annotated[float, Field(gt=0, lt=1e9)]
FinishReason = Literal["stop", "length", "abort", "error", "repetition", "cut"]
"""Why a completion ended. `stop`: at a stop id or string. `length`: at `max_new_tokens`. `abort`: an engine gave it up.
`error`: its group failed. `repetition`: it repeated itself. `cut`: it was not needed any more."""
VersionSpan = tuple[Index, Index]
"""`(version, num_tokens)`: the policy version that sampled the next `num_tokens` tokens."""
