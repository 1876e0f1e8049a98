# Everything runs in .venv, which tools/setup.sh prepares on first use. PYTHON=python3.12 chooses the Python for it.
BIN := .venv/bin

.PHONY: help setup demo test lint format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' Makefile

setup: ## prepare .venv; nothing to do the second time
	@bash tools/setup.sh

demo: setup ## real vLLM completions through a real Redis, on this machine's CPU; ARGS="..." goes to `rollstream demo`
	@$(BIN)/rollstream demo $(ARGS)

test: lint ## lint, then all tests; ARGS="-k padding" goes to pytest
	@echo "== pytest"
	@$(BIN)/python -m pytest $(ARGS)

lint: setup ## ruff and mypy
	@echo "== ruff check"
	@$(BIN)/ruff check .
	@echo "== ruff format --check"
	@$(BIN)/ruff format --check .
	@echo "== mypy"
	@$(BIN)/mypy

format: setup ## mend what ruff can mend, and lay the code out
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

clean: ## remove .venv, caches and build leftovers
	@rm -rf .venv build dist .demo *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
