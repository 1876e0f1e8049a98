"""Golden jobs come from one kind of workers and from one version, or from none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rollstream.producer.errors import GoldenRefusedError
from rollstream.producer.golden.origin import origin_of, vocabulary_of
from rollstream.schemas import GroupResult
from rollstream.schemas.hashes.worker_report import WorkerReport
from tests.support.answers import result_of

REPORT = WorkerReport(
    model="m", engine="vllm", runs_on="vllm 0.32.0 on cpu", dtype="float32", vocab_size=9,
    policy_version=3, policy_sha256="a" * 64,
)  # fmt: skip


def answer(worker: str = "a", *versions: int, **changes: Any) -> GroupResult:
    """Two tokens, by one version or by two."""
    spans = tuple((version, 2 // len(versions)) for version in versions) if versions else ((3, 2),)
    return result_of(0, [1], [[4, 5]], worker=worker, version_spans=(spans,), **changes)


def test_like_workers_of_one_version_are_one_origin() -> None:
    found = origin_of([answer("a"), answer("b"), answer("a")], {"a": REPORT, "b": REPORT, "c": WorkerReport()})

    assert (found.workers, found.policy_version, found.policy_sha256) == (("a", "b"), 3, "a" * 64)
    assert (found.model, found.dtype, found.vocab_size) == ("m", "float32", 9)
    assert str(found) == "vllm 0.32.0 on cpu in float32"


def test_the_boot_model_has_no_digest() -> None:
    booted = replace(REPORT, policy_version=0, policy_sha256="")

    assert origin_of([answer("a", 0)], {"a": booted}).policy_sha256 == ""


@pytest.mark.parametrize(
    ("answers", "reports", "problem"),
    [
        ([answer("a", 2, 3)], {"a": REPORT}, r"more than one policy version \(2, 3\)"),
        ([answer("a", 2), answer("a", 3)], {"a": REPORT}, r"more than one policy version \(2, 3\)"),
        ([answer("a", spans_exact=False)], {"a": REPORT}, r"more than one policy version \(3\)"),
        ([answer("a")], {"b": REPORT}, "a answered and ended"),
        ([answer("a")], {"a": replace(REPORT, policy_version=4)}, "a went on from version 3 meanwhile"),
        *(
            ([answer("a"), answer("b")], {"a": REPORT, "b": replace(REPORT, **other)}, "unlike workers answered")
            for other in (
                {"model": "n"}, {"engine": "stub"}, {"runs_on": "vllm 0.33.0 on cpu"}, {"dtype": "bfloat16"},
                {"vocab_size": 8}, {"policy_sha256": "b" * 64},
            )
        ),
    ],
)  # fmt: skip
def test_what_is_not_one_thing_is_refused(
    answers: list[GroupResult], reports: dict[str, WorkerReport], problem: str
) -> None:
    with pytest.raises(GoldenRefusedError, match=problem):
        origin_of(answers, reports)


def test_prompts_are_made_up_for_one_vocabulary() -> None:
    assert vocabulary_of({"a": REPORT, "b": REPORT}) == 9
    with pytest.raises(GoldenRefusedError, match=r"vocabularies of \[8, 9\] ids"):
        vocabulary_of({"a": REPORT, "b": replace(REPORT, vocab_size=8)})
