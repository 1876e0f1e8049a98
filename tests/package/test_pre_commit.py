"""The hooks of pre-commit are what `make lint` runs."""

from __future__ import annotations

import re

from tests.support.worker_process import ROOT


def test_the_hooks_run_what_make_lint_runs() -> None:
    hooks = re.findall(r"^ +entry: (.+)$", (ROOT / ".pre-commit-config.yaml").read_text(), re.MULTILINE)
    recipes = dict(re.findall(r"^(lint[a-z-]*):.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE))

    whole = recipes.pop("lint")
    checks = "".join(recipes.values())

    assert sorted(hooks) == sorted(one.replace("$(BIN)", ".venv/bin") for one in re.findall(r"@(\$\(BIN\).*)", checks))
    assert len(hooks) == checks.count("@echo")
    assert set(re.findall(r"lint-[a-z]+", whole)) == set(recipes)
