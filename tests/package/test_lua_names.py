"""The scripts name fields of hashes and entries as `schemas` does: what one side wrote the other reads."""

from __future__ import annotations

import re
from dataclasses import fields

from rollstream.schemas import Batch, GroupError, Sealed
from rollstream.schemas.hashes.history import RateField
from rollstream.schemas.hashes.ledger import LedgerField
from rollstream.schemas.hashes.part_fields import FINISHED
from rollstream.schemas.hashes.rounds import Did, Phase, RoundField
from rollstream.schemas.hashes.runs import RunField
from rollstream.schemas.hashes.sessions import SessionField
from rollstream.schemas.hashes.stored_index import TOTAL_FIELD
from rollstream.schemas.hashes.totals import Totals
from rollstream.schemas.hashes.worker_report import ADDITION, DRAIN
from rollstream.schemas.wire.entry_fields import KIND, LETTER, PAYLOAD, TOKENS
from tests.support.worker_process import ROOT

PLACEHOLDER = 7
"""Stands for the numbers in a name."""
LEDGER = {
    LedgerField.DIGEST, LedgerField.DESCRIPTION, LedgerField.GROUPS, LedgerField.QUEUED, LedgerField.DONE,
    LedgerField.CANCELLED, LedgerField.CUTS, LedgerField.FIRST_GROUPS, LedgerField.GOOD,
    LedgerField.KEEP, LedgerField.CONSUMED,
    LedgerField.job(PLACEHOLDER), LedgerField.group(PLACEHOLDER),
    LedgerField.answered(PLACEHOLDER),
    LedgerField.share(PLACEHOLDER, PLACEHOLDER), LedgerField.samples(PLACEHOLDER),
    LedgerField.duplicate(PLACEHOLDER, PLACEHOLDER), LedgerField.lived("7", PLACEHOLDER), LedgerField.dead("7"),
}  # fmt: skip
ENTRIES = {KIND.decode(), LETTER.decode(), PAYLOAD.decode(), TOKENS.decode()}
TOTALS = {one.name for one in fields(Totals)}
ROUND = {
    RoundField.EPOCH, RoundField.PHASE, RoundField.PLAN, RoundField.WHY, RoundField.AT, Phase.OPEN, Did.JOINED,
    *(f"{name}:" for name in (RoundField.AT, RoundField.RANKS, RoundField.DID)),
}  # fmt: skip
RUN = set(RunField) - {RunField.CONSUMED, RunField.DROPPED}
"""Which of the two is counted is an argument."""
SESSION = {*SessionField, SessionField.turn(PLACEHOLDER).partition(":")[0] + ":"}
VALUES = {
    *(message.model_fields["kind"].default for message in (GroupError, Sealed)), LedgerField.CANCELLED, LedgerField.CUT,
    LedgerField.COMPLETE, FINISHED,
}  # fmt: skip
_CALL = re.compile(r"redis\.p?call\('(?:H[A-Z]+|XADD)', (.*)")
_FIRST = re.compile(r"'([a-z]+:)' \.\.")
_WORD = re.compile(r"'([a-z_]+)'")
_REPLY = re.compile(r"return '[a-z]+'")
_COMPARED = re.compile(r"\[2\]\[i\] == '([a-z]+)'")


def scripts() -> dict[str, str]:
    folders = ("producer", "worker", "transport")
    return {path.name: path.read_text() for folder in folders for path in (ROOT / folder).rglob("*.lua")}


def names_in(script: str) -> set[str]:
    """What a script says of fields: words in its calls that write or read them, prefixes before a number."""
    code = "\n".join(_REPLY.sub("", line.partition("--")[0]) for line in script.splitlines())
    words = {word for call in _CALL.findall(code) for word in _WORD.findall(call)}
    return words | set(_FIRST.findall(code)) | set(_COMPARED.findall(code))


def test_scripts_and_schemas_have_the_same_names() -> None:
    stems = {name.partition(":")[0] + ":" * (":" in name) for name in LEDGER}
    said = set().union(*map(names_in, scripts().values()))
    rate = {RateField.ANSWERS, RateField.FULL, RateField.TOKENS_PER_S}
    assert said == stems | ENTRIES | TOTALS | VALUES | ROUND | RUN | SESSION | rate | {DRAIN, ADDITION, TOTAL_FIELD}


def test_a_name_that_schemas_do_not_have_is_seen() -> None:
    script = scripts()["submit.lua"].replace("'digest'", "'digests'").replace("'job:'", "'jobs:'")
    assert names_in(script) - names_in(scripts()["submit.lua"]) == {"digests", "jobs:"}


def test_the_description_is_that_of_a_batch() -> None:
    assert Batch.model_fields["kind"].default == LedgerField.DESCRIPTION
