"""What an error of vLLM is about: the one on top may only repeat what vLLM was given. Imports no vLLM."""

from __future__ import annotations

_MOST = 1000
"""Characters: libraries print whole tensors and configs."""


def innermost(error: BaseException) -> str:
    """Type and text of the error from which all others were raised, on one line."""
    first = _first(error)
    text = _text(first)
    return f"{type(first).__name__}: {text}" if text else type(first).__name__


def with_cause(error: BaseException) -> str:
    """The text of an error, and after it that of the innermost one where it says more, on one line."""
    text, first = _text(error), _first(error)
    if not text:
        return innermost(error)
    return text if first is error or _text(first) in text else f"{text} (caused by {innermost(error)})"


def _first(error: BaseException) -> BaseException:
    chain = [error]
    while (earlier := chain[-1].__cause__) is not None and earlier not in chain:
        chain.append(earlier)
    return chain[-1]


def _text(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= _MOST else f"{text[:_MOST]}..."
