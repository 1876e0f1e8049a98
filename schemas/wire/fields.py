"""Types that fields of several messages share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from ..entry_id import EntryId
from ..keys import check_adapter, check_name
from ..printable import printable

EntryIdText = Annotated[str, AfterValidator(lambda value: str(EntryId.of(value)))]
BatchId = Annotated[str, AfterValidator(lambda value: check_name("batch_id", value))]
AdapterName = Annotated[str, AfterValidator(check_adapter)]
Shown = Annotated[str, AfterValidator(printable)]
"""Read by people: what a terminal would obey becomes escapes."""
Index = Annotated[int, Field(ge=0, lt=2**31)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
FinishReason = Literal["stop", "length", "abort", "error"]
VersionSpan = tuple[Index, Index]
"""`(version, num_tokens)`: which policy version sampled how many tokens, in order."""
