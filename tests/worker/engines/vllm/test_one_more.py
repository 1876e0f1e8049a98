"""vLLM starts with a limit that is one higher than the one that was checked, and everything else is as it was."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from rollstream.worker.engines.vllm.one_more import ALLOW, given


class Arguments:
    """As `AsyncEngineArgs`: a model of 64 positions, and no limit above them unless it is allowed."""

    def __init__(self, environment: dict[str, str], max_model_len: int | None) -> None:
        self._environment = environment
        self.max_model_len = max_model_len

    def create_model_config(self) -> Any:
        if (self.max_model_len or 0) > 64 and ALLOW not in self._environment:
            raise ValueError(f"{self.max_model_len} is greater than 64")
        return SimpleNamespace(max_model_len=self.max_model_len or 64)


@pytest.mark.parametrize(("asked", "started"), [(None, 65), (64, 65), (40, 41), (-1, -1)])
def test_the_limit_is_one_higher(asked: int | None, started: int) -> None:
    environment: dict[str, str] = {}
    with given(Arguments(environment, asked), environment) as arguments:
        assert (arguments.max_model_len, environment) == (started, {ALLOW: "1"})

    assert environment == {}


def test_a_limit_beyond_the_models_is_refused() -> None:
    environment: dict[str, str] = {}
    with pytest.raises(ValueError, match="greater than 64"), given(Arguments(environment, 65), environment):
        pass

    assert environment == {}


def test_what_the_operator_allowed_stays_allowed() -> None:
    environment = {ALLOW: "true"}
    with given(Arguments(environment, 100), environment) as arguments:
        assert arguments.max_model_len == 101

    assert environment == {ALLOW: "true"}


def test_the_warning_about_it_alone_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    environment: dict[str, str] = {}
    checks = logging.getLogger("vllm.config.model")
    with given(Arguments(environment, 64), environment):
        checks.warning("%s must be used with caution", ALLOW)
        checks.warning("something else")
    checks.warning("%s after the start", ALLOW)

    assert caplog.messages == ["something else", f"{ALLOW} after the start"]
