"""The hooks of pre-commit are what `make lint` runs."""

from __future__ import annotations

import re

from tests.support.worker_process import ROOT


def test_the_hooks_run_what_make_lint_runs_in_the_same_order() -> None:
    hooks = re.findall(r"^ +entry: (.+)$", (ROOT / ".pre-commit-config.yaml").read_text(), re.MULTILINE)
    (recipe,) = re.findall(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)

    assert hooks == [line.replace("$(BIN)", ".venv/bin") for line in re.findall(r"@(\$\(BIN\).*)", recipe)]
    assert len(hooks) == recipe.count("@echo")
