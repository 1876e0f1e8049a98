"""What a run of the tests with one version of vLLM came to: as JSON for machines, and a table for people. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

from tests.vllm_versions.recording import FAILED, PASSED, SKIPPED, STARTED


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """How each test ended. `unfinished`: those that had begun when the run ended, as when a test killed it."""

    passed: tuple[str, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)
    """Why, by the test's name."""
    skipped: dict[str, str] = field(default_factory=dict)
    unfinished: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run: with what, when, on which commit."""

    vllm: str
    torch: str
    transformers: str
    python: str
    commit: str
    date: str
    tests: str
    """`all`, `core`, or what was given to pytest."""
    seconds: int
    exit_code: int
    outcomes: Outcomes

    def as_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @property
    def is_clean(self) -> bool:
        """Whether all that was to run ran, and none failed."""
        return self.exit_code == 0 and not (self.outcomes.failed or self.outcomes.unfinished)


def read_run(text: str) -> Run:
    """What `as_json` wrote."""
    fields = json.loads(text)
    found = fields.pop("outcomes")
    return Run(
        **fields,
        outcomes=Outcomes(
            passed=tuple(found["passed"]), failed=found["failed"], skipped=found["skipped"],
            unfinished=tuple(found["unfinished"]),
        ),
    )  # fmt: skip


def read_record(lines: Iterable[str]) -> Outcomes:
    """From the lines that `recording` wrote. A test that passed and then failed to clean up has failed."""
    began: dict[str, None] = {}
    ended: dict[str, dict[str, str]] = {PASSED: {}, FAILED: {}, SKIPPED: {}}
    for line in lines:
        event = json.loads(line)
        if event["outcome"] == STARTED:
            began[event["name"]] = None
        elif event["outcome"] in ended:
            ended[event["outcome"]].setdefault(event["name"], event["why"])
    failed, skipped = ended[FAILED], ended[SKIPPED]
    passed = [name for name in ended[PASSED] if name not in failed]
    known = {*passed, *failed, *skipped}
    return Outcomes(
        passed=tuple(passed), failed=failed, skipped=skipped,
        unfinished=tuple(name for name in began if name not in known),
    )  # fmt: skip


def table(runs: Sequence[Run]) -> str:
    """A row for each run, oldest vLLM first, then each test that did not pass with its reason. Markdown."""
    rows = [
        "| vLLM | torch | transformers | tests | passed | failed | skipped | seconds | commit | date |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    ordered = sorted(runs, key=lambda run: [int(part) for part in run.vllm.split(".") if part.isdigit()])
    for run in ordered:
        found = run.outcomes
        failed = f"{len(found.failed)}" + (f" + {len(found.unfinished)} unfinished" if found.unfinished else "")
        rows.append(
            f"| {run.vllm} | {run.torch} | {run.transformers} | {run.tests} | {len(found.passed)} | {failed} "
            f"| {len(found.skipped)} | {run.seconds} | {run.commit} | {run.date} |"
        )
    return "\n".join([*rows, *(line for run in ordered for line in _not_passed(run))]) + "\n"


def _not_passed(run: Run) -> list[str]:
    found = run.outcomes
    named = [
        *(f"- failed: `{name}`: {why}" for name, why in found.failed.items()),
        *(f"- unfinished: `{name}`" for name in found.unfinished),
        *(f"- skipped: `{name}`: {why}" for name, why in found.skipped.items()),
    ]
    return ["", f"vLLM {run.vllm}:", "", *named] if named else []
