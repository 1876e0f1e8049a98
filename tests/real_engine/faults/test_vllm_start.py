"""When vLLM does not start, the error names the cause, from whichever process it is in, and shows no secret."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from rollstream.worker.engines.vllm.start import (
    MAX_CAUSE,
    START_REPORT,
    StartReport,
    cause,
    getting_ready,
    listening,
    report_failures,
    secrets_of,
    why_not_started,
)
from rollstream.worker.errors import EngineDiedError, SettingsError
from tests.support.engine.engine_requests import settings
from tests.support.engine.real_workers import RealWorkers

POINTER = "Engine core initialization failed. See root cause above. Failed core proc(s): {}"


def raised_from(text: str, earlier: Exception) -> RuntimeError:
    error = RuntimeError(text)
    error.__cause__ = earlier
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("no memory\n  is left"), "ValueError: no memory is left"),
        (KeyError(), "KeyError"),
        (raised_from("cannot load", OSError("bad file")), "RuntimeError: cannot load (caused by OSError: bad file)"),
        (raised_from(POINTER, OSError("bad file")), "OSError: bad file"),
        (raised_from("it says OSError: bad file", OSError("bad file")), "RuntimeError: it says OSError: bad file"),
    ],
)
def test_a_cause_is_one_line_with_what_it_was_raised_from(error: Exception, expected: str) -> None:
    assert cause(error) == expected


def test_a_cause_is_bounded() -> None:
    assert len(cause(RuntimeError("x" * 100_000))) < MAX_CAUSE


def test_what_pydantic_was_given_is_not_shown() -> None:
    class Config(BaseModel):
        length: int

    with pytest.raises(ValidationError) as caught:
        Config(length="hf_secret")

    assert "length: Input should be a valid integer" in cause(caught.value)
    assert "hf_secret" not in cause(caught.value)


@pytest.mark.parametrize(
    ("text", "reported", "expected"),
    [
        (POINTER, "ValueError: no memory", "ValueError: no memory"),
        (POINTER.format("{'EngineCore': -9}"), "", "its process EngineCore was ended by SIGKILL: the machine's memory"),
        (POINTER.format("{'EngineCore': -11}"), "", "its process EngineCore was ended by SIGSEGV"),
        (POINTER.format("{'EngineCore': 1}"), "", "RuntimeError: Engine core initialization failed"),
        ("no such {thing}", "", "RuntimeError: no such {thing}"),
    ],
)
def test_a_childs_word_goes_before_the_parents(text: str, reported: str, expected: str) -> None:
    report = StartReport()
    report.text = reported

    assert why_not_started(RuntimeError(text), report, ()).startswith(expected)


def test_no_secret_is_in_a_cause() -> None:
    arguments = {"hf_token": "hf_abcdefgh", "tokenizer": "/models/tokenizer", "max_num_batched_tokens": 12345678}
    secrets = secrets_of(arguments, {"HF_TOKEN": "hf_of_the_environment", "HOME": "/home/somebody"})

    found = why_not_started(
        OSError("401 for hf_abcdefgh, hf_of_the_environment at /models/tokenizer"), StartReport(), secrets
    )

    assert found == "OSError: 401 for ***, *** at /models/tokenizer"


@pytest.mark.parametrize(
    ("exit_codes", "reported", "expected"),
    [
        ({"EngineCore": 1}, "NotImplementedError: no kernel", "NotImplementedError: no kernel"),
        ({"EngineCore": None}, "NotImplementedError: no kernel", "NotImplementedError: no kernel"),
        ({"EngineCore": -11}, "", "its process EngineCore was ended by SIGSEGV"),
        ({"EngineCore": 1}, "", "its processes ended with the exit codes {'EngineCore': 1}"),
    ],
)
def test_a_model_that_ends_its_engine_at_a_first_request_is_refused_with_the_cause(
    exit_codes: dict[str, int | None], reported: str, expected: str
) -> None:
    report = StartReport()
    report.text = reported

    with (
        pytest.raises(SettingsError, match="its engine ended at a first request") as raised,
        getting_ready(Path("m"), report, {"no kernel"}, lambda: exit_codes),
    ):
        raise EngineDiedError("its process ended")

    assert str(raised.value).endswith(expected.replace("no kernel", "***"))


def test_an_engine_that_only_hung_at_a_first_request_is_not_the_models_fault() -> None:
    with (
        pytest.raises(EngineDiedError, match="no step in 120 s"),
        getting_ready(Path("m"), StartReport(), (), lambda: {"EngineCore": None}),
    ):
        raise EngineDiedError("no step in 120 s")


CHILD = """
import logging, os
from rollstream.worker.engines.vllm.start import report_failures
logger = logging.getLogger("vllm")
for _ in range(2):
    report_failures(os.environ, logger)
below = logger.getChild("v1.engine.core")
below.error("an error without an exception")
failures = {"an optional part is missing": ImportError("optional"), "Core failed to start.": MemoryError("full")}
for text, error in failures.items():
    try:
        raise error
    except Exception:
        below.exception(text)
"""


def test_a_child_reports_the_error_that_ended_it() -> None:
    environment = dict(os.environ)

    with listening(environment) as report:
        subprocess.run([sys.executable, "-c", CHILD], env=environment, check=True, capture_output=True)

    assert report.text == "MemoryError: full"
    assert START_REPORT not in environment


@pytest.mark.parametrize("place", [None, "/proc/self/fd/0", "/nothing"])
def test_where_nobody_listens_a_child_reports_nothing(place: str | None) -> None:
    logger = logging.Logger("test")

    report_failures({} if place is None else {START_REPORT: place}, logger)

    assert logger.handlers == []


@pytest.mark.vllm
async def test_the_cause_of_a_failed_start_comes_from_the_engines_process(tiny_model: Path, tmp_path: Path) -> None:
    from rollstream.worker.engines.vllm.engine import VllmEngine

    (tmp_path / "config.json").write_bytes((tiny_model / "config.json").read_bytes())
    arguments: dict[str, Any] = {"hf_token": "hf_abcdefgh"}
    engine = VllmEngine(settings(tmp_path, engine_args=arguments))

    with pytest.raises(SettingsError, match="Cannot find any model weights") as caught:
        await engine.start()
    await engine.close()

    assert "root cause" not in str(caught.value)
    assert "hf_abcdefgh" not in str(caught.value)


@pytest.mark.vllm
@pytest.mark.timeout(240)
def test_what_vllm_logs_in_the_workers_process_is_a_line_of_the_workers_log(real_workers: RealWorkers) -> None:
    (worker, *_) = real_workers.serving()

    assert "[vllm." in worker.log
    assert "(MainProcess pid=" not in worker.log
