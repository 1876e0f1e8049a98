"""Match modules with a LoRA config's regular expression, as PEFT does, in a process of its own.

An adapter may come from anybody, and matching some expressions never ends; Python cannot interrupt it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import shown
from .adapter_tensors import placed

ALL_LINEAR = "all-linear"
"""PEFT's word for all linear layers; it is no expression."""
_CPU_S, _WALL_S, _MEMORY = 2, 30, 2**30

_MATCH = f"""
import json, re, resource, sys
resource.setrlimit(resource.RLIMIT_CPU, ({_CPU_S}, {_CPU_S}))
resource.setrlimit(resource.RLIMIT_AS, ({_MEMORY}, {_MEMORY}))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
expression, modules = json.load(sys.stdin)
try:
    pattern = re.compile(expression)
except Exception as error:
    json.dump(str(error), sys.stdout)
else:
    json.dump([pattern.fullmatch(module) is not None for module in modules], sys.stdout)
"""


class _UnmatchedError(Exception):
    """Raised, with the reason, if it cannot be known what an expression matches."""


def expressions_problem(config: Mapping[str, Any], names: Iterable[str]) -> str | None:
    """Which module has tensors although PEFT would not put an adapter there; config and names must have no problem.

    None if the config names modules only by lists, or if each module matches. Blocks, usually for a moment.
    """
    modules = sorted({placed(name)[0] for name in names})
    for field, is_wanted in (("target_modules", True), ("exclude_modules", False)):
        expression = config.get(field)
        if not isinstance(expression, str) or not expression or expression.lower() == ALL_LINEAR:
            continue
        try:
            matched = _matched(expression, modules)
        except _UnmatchedError as why:
            return f"{field}={shown(expression)} {why}: name the modules in a list"
        if astray := [module for module, found in zip(modules, matched, strict=True) if found is not is_wanted]:
            return (
                f"module {shown(astray[0])} has tensors, but {field}={shown(expression)}, a regular expression for the "
                "whole path of a module, leaves it out: PEFT would not apply them; to name modules, use a list"
            )
    return None


def _matched(expression: str, modules: Sequence[str]) -> list[bool]:
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _MATCH],
            input=json.dumps([expression, modules]).encode(),
            capture_output=True,
            timeout=_WALL_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _UnmatchedError("takes too long to match") from None
    except (OSError, ValueError) as error:
        raise _UnmatchedError(f"cannot be matched in a process of its own here ({error})") from None
    if done.returncode != 0:
        raise _UnmatchedError("takes too long to match, or too much memory")
    found: list[bool] | str = json.loads(done.stdout)
    if isinstance(found, str):
        raise _UnmatchedError(f"is no regular expression ({found})")
    return found
