"""What is said of a refusal names its reason, and not what vLLM was given. Without vLLM."""

from __future__ import annotations

from itertools import pairwise

import pytest

from rollstream.worker.engines.vllm.causes import innermost, with_cause


def raised(*errors: Exception) -> Exception:
    """The last of them, each raised from the one before."""
    for inner, outer in pairwise(errors):
        outer.__cause__ = inner
    return errors[-1]


RATIO = ValueError("absolute aspect ratio must be smaller than 200,\n got 300.0")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RATIO, "ValueError: absolute aspect ratio must be smaller than 200, got 300.0"),
        (KeyError(), "KeyError"),
        (raised(TypeError("a"), ValueError("b"), RuntimeError("c")), "TypeError: a"),
        (ValueError("x" * 2000), f"ValueError: {'x' * 1000}..."),
    ],
)
def test_the_innermost_error_is_said_in_one_line(error: Exception, said: str) -> None:
    assert innermost(error) == said


def test_an_error_that_names_no_reason_comes_with_the_one_behind_it() -> None:
    hidden = raised(RuntimeError("EBNF, line 2: expected ::="), ValueError("Invalid grammar specification."))
    repeated = raised(RuntimeError("no rule root"), ValueError("cannot compile: no rule root"))

    assert with_cause(hidden) == "Invalid grammar specification. (caused by RuntimeError: EBNF, line 2: expected ::=)"
    assert with_cause(repeated) == "cannot compile: no rule root"
    assert with_cause(raised(TypeError("a"), ValueError())) == "TypeError: a"
    assert with_cause(ValueError("alone")) == "alone"


def test_errors_that_were_raised_from_each_other_end() -> None:
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one

    assert innermost(one) == "ValueError: other"
