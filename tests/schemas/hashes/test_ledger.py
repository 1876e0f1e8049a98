"""What a ledger says is read as its scripts wrote it, and whatever else stands there is named."""

from __future__ import annotations

import pytest

from rollstream.schemas.entry_id import EntryId
from rollstream.schemas.hashes.ledger import LedgerCounts, LedgerField, job_entry


@pytest.mark.parametrize(
    ("done", "groups", "counts"), [(b"3", b"4", (3, 4)), (None, b"4", (0, 4)), (None, None, (0, None))]
)
def test_counts_read_as_they_were_written(
    done: bytes | None, groups: bytes | None, counts: tuple[int, int | None]
) -> None:
    assert LedgerCounts.of(done, groups) == LedgerCounts(done=counts[0], groups=counts[1])


@pytest.mark.parametrize("value", [b"x", b"-1", b"1.5", b"", b"9" * 5000, b"2147483648", b"\xff"])
def test_counts_that_no_script_wrote_are_named(value: bytes) -> None:
    with pytest.raises(ValueError, match=r"^groups is b'") as refused:
        LedgerCounts.of(b"0", value)
    assert len(str(refused.value)) < 100


def test_a_job_is_read_with_the_entry_that_it_was_queued_as() -> None:
    assert job_entry(LedgerField.job(12).encode(), b"5-1") == (12, EntryId(5, 1))


@pytest.mark.parametrize(
    ("name", "value"), [(b"job:x", b"5-1"), (b"job:", b"5-1"), (b"job:1", b"5"), (b"job:1", b""), (b"g:1", b"5-1")]
)
def test_a_job_that_no_submit_wrote_is_named(name: bytes, value: bytes) -> None:
    with pytest.raises(ValueError, match="is b'"):
        job_entry(name, value)
