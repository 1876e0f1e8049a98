"""No password, token or escape sequence reaches a terminal or a log line, however it got into a text."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rollstream.producer.cli.app import app
from rollstream.producer.cli.usage import usage_problem
from rollstream.schemas import GroupError, RollstreamError
from rollstream.schemas.printable import printable, printable_lines, without_credentials
from rollstream.worker.adapters.folder import AdapterFolder
from rollstream.worker.command import main
from rollstream.worker.config import WorkerSettings
from rollstream.worker.errors import DataError
from rollstream.worker.operations.redaction import Redaction, is_secret, without_secrets
from tests.support.worker_process import ROOT

STUB = ("--policy", "p", "--engine", "stub")
ESCAPES = "\x1b]0;title\x07\x1b[31mred\u202e\r\x9b2J"
LOGS = """
import sys
from rollstream.worker.operations import logs
from rollstream.worker.config import WorkerSettings

password, form = sys.argv[1:]
settings = WorkerSettings(
    policy="p", engine="stub", redis=f"redis://u:{password}@h", engine_args={"hf_token": "hf_SECRET"}, log_format=form
)
logs.configure(settings)
import structlog
log = structlog.get_logger()
log.warning("refused", location=sys.stdin.read(), seen={"of": [f"is {password}"]}, token="x hf_SECRET y")
try:
    raise ValueError(f"input_value='hf_SECRET', url=redis://u:{password}@h")
except ValueError:
    log.error("failed", exc_info=True)
"""


def run(*command: str, text: str) -> str:
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, input=text, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


def test_the_password_of_a_file_is_hidden_like_that_of_a_url(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("of-a-file\n")

    redaction = Redaction(WorkerSettings(policy="p", engine="stub", redis_password_file=file))

    assert redaction.line("refused: of-a-file") == "refused: ***"


def test_a_password_is_hidden_too_that_its_file_got_later(tmp_path: Path) -> None:
    file, of_sentinels = tmp_path / "password", tmp_path / "sentinels"
    file.write_text("first-one\n")
    settings = WorkerSettings(
        policy="p", engine="stub", redis_password_file=file, redis_sentinel_password_file=of_sentinels
    )
    redaction = Redaction(settings)
    assert redaction.line("first-one") == "***"

    for path, held in ((file, "second-one"), (of_sentinels, "of-sentinels")):
        path.with_suffix(".new").write_text(held)
        path.with_suffix(".new").rename(path)

    assert redaction.line("first-one second-one of-sentinels") == "*** *** ***"


def test_the_sentinels_password_is_hidden_encoded_and_decoded() -> None:
    url = "redis+sentinel://u:p@h/m?sentinel_username=s&sentinel_password=of%40sentinels"

    redaction = Redaction(WorkerSettings(policy="p", engine="stub", redis=url))

    assert redaction.line("refused: of@sentinels") == "refused: ***"
    assert "of%40sentinels" not in redaction.line(f"cannot reach {url}")


@pytest.mark.parametrize("form", ["console", "json"])
def test_a_log_line_shows_no_secret_and_nothing_that_a_terminal_obeys(form: str) -> None:
    said = run("-c", LOGS, "pass-word", form, text=ESCAPES)

    assert said.count("refused") == 1
    assert "ValueError" in said
    assert "SECRET" not in said
    assert "pass-word" not in said
    assert printable_lines(said) == said
    assert "red" in said


def test_settings_are_printed_without_their_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = {"hf_token": "hf_SECRET", "kv_transfer_config": {"api_key": "SECRET"}, "tokenizer_mode": "slow"}

    main([*STUB, "--print-config", "--engine-args", json.dumps(arguments), "--redis", "redis://h?password=SECRET"])

    shown = json.loads(capsys.readouterr().out)
    assert shown["engine_args"] == arguments | {"hf_token": "***", "kv_transfer_config": {"api_key": "***"}}
    assert shown["redis"] == "redis://***@h"
    assert "SECRET" not in repr(WorkerSettings(policy="p", engine="stub", engine_args=arguments))


@pytest.mark.parametrize(
    "words",
    [
        ("--redis", "redis://:SECRET?@h"),
        ("redis://:SECRET@h",),
        ("--redi", "redis://:SECRET@h"),
        ("--engine-args", '{"hf_token": "SECRET"'),
        ("--engine-arg", '{"hf_token": "SECRET"}'),
        ("--max-num-seqs", "SECRET"),
        ("--log-format", "SECRET"),
    ],
    ids=" ".join,
)
def test_what_the_worker_says_of_a_bad_command_line_repeats_no_value(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    code = main([*STUB, *words])

    said = capsys.readouterr()
    assert code == 2
    assert "SECRET" not in said.out + said.err
    assert said.err.startswith("rollstream-worker: ")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ["--redis", "redis://:SECRET?@h:1"],
        ["--redis", "redis://:SECRET@127.0.0.1:1"],
        ["--policy", "redis://:SECRET@h"],
    ],
    ids=" ".join,
)
def test_the_command_line_repeats_no_password(words: list[str]) -> None:
    said = CliRunner().invoke(app, ["status", "--policy", "p", *words])

    assert said.exit_code == 1
    assert "SECRET" not in said.output


def test_a_redis_url_without_its_flag_is_not_repeated() -> None:
    for words in (["status", "redis://:SECRET@h"], ["rediss://:SECRET@h"]):
        assert "write it as --redis URL" in (usage_problem(words, {}) or "")
        assert "SECRET" not in (usage_problem(words, {}) or "")
    assert usage_problem(["status", "--redis", "redis://h"], {}) is None


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("hf_token", True), ("api_key", True), ("apiKey", True), ("password", True), ("aws_secret_access_key", True),
        ("tokenizer", False), ("max_num_batched_tokens", False), ("keyboard", False), ("skip_tokenizer_init", False),
    ],
)  # fmt: skip
def test_a_secret_is_known_by_its_name(name: str, secret: bool) -> None:
    assert is_secret(name) is secret


def test_what_is_no_text_tells_no_secret() -> None:
    assert without_secrets({"hf_token": True, "a": [{"key": 5}, None]}) == {
        "hf_token": True,
        "a": [{"key": "***"}, None],
    }


def test_passwords_are_found_encoded_and_decoded() -> None:
    settings = WorkerSettings(policy="p", engine="stub", redis="redis://u:p%40ssw%2Frd@h")

    said = Redaction(settings).line("auth p@ssw/rd or p%40ssw%2Frd failed")

    assert said == "auth *** or *** failed"


def test_secrets_are_found_in_lists_and_mappings_below_a_secret_name() -> None:
    arguments = {"api_key": ["key-in-a-list"], "credentials": {"user": {"pin": "deep-inside"}}, "names": ["plain"]}

    said = Redaction(WorkerSettings(policy="p", engine="stub", engine_args=arguments)).line(str(arguments))

    assert "key-in-a-list" not in said
    assert "deep-inside" not in said
    assert "plain" in said


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Redis at redis://u:p@h:1/0: gone", "Redis at redis://***@h:1/0: gone"),
        ("redis+cluster://:p@ss@a,b", "redis+cluster://***@a,b"),
        ("redis://:p/s?s@h", "redis://***@h"),
        ("redis://h?password=x&db=1", "redis://h?password=***&db=1"),
        ("https://user:pw@host/x@1 and s3://bucket/model@1", "https://***@host/x@1 and s3://bucket/model@1"),
        ("redis+sentinel://:p/s?s@h/m", "redis+sentinel://***@h/m"),
        (
            "redis+sentinel://h/m?sentinel_username=s&sentinel_password=x",
            "redis+sentinel://h/m?sentinel_username=***&sentinel_password=***",
        ),
        ("math@1", "math@1"),
    ],
)
def test_logins_of_urls_are_hidden_in_any_text(text: str, expected: str) -> None:
    assert without_credentials(text) == expected


def test_every_error_of_ours_is_safe_to_print() -> None:
    text = str(RollstreamError(f"a\n{ESCAPES} redis://:pw@h"))

    assert text.startswith("a\n\\x1b]0;title")
    assert printable_lines(text) == text
    assert "pw" not in text


def test_a_group_error_that_a_worker_sent_is_one_printable_line() -> None:
    error = GroupError(batch_id="b", group=0, code="too_long", field="x\n", message=ESCAPES, worker="w\x1b")

    assert (error.field, error.message, error.worker) == ("x\\n", printable(ESCAPES), "w\\x1b")


def test_an_adapters_escapes_are_shown_by_the_worker_as_text(tmp_path: Path) -> None:

    folder = tmp_path / "a@1"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": ESCAPES}))
    with pytest.raises(DataError) as caught:
        AdapterFolder(root=tmp_path, max_rank=16, model=None).find("a@1")

    assert printable(str(caught.value)) == str(caught.value)


def test_a_warning_of_the_producer_is_one_printable_line(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("rollstream").warning("worker %s refused: %s", ESCAPES, "redis://:SECRET@h")

    assert printable(caplog.messages[0]) == caplog.messages[0]
    assert "SECRET" not in caplog.messages[0]
