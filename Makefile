# Everything runs in .venv, which tools/setup.sh prepares on first use. PYTHON=python3.12 chooses the Python for it.
BIN := .venv/bin
# Tests that start an engine have two processes to themselves (tests/conftest.py). Many others wait for a lease or an
# outage, so a third process fits on two cores: 16 minutes instead of 19.
PYTEST := $(BIN)/python -m pytest -n 3

# Where it is set, as in many container images, each engine would compile 15 s of Python twice, every time it starts.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup constraints demo example distill agent chaos autoscale families docs release test-installs bench test test-large test-vllm \
	test-redis image image-pins test-images lint lint-style lint-types lint-rooms format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' Makefile

setup: ## prepare .venv; nothing to do the second time
	@bash tools/setup.sh

constraints: ## renew tools/constraints.txt: .venv afresh with the newest that pyproject.toml allows, under Python 3.11
	@bash tools/setup.sh --newest

demo: setup ## real vLLM completions through a real Redis, on this machine's CPU; ARGS="..." goes to `rollstream demo`
	@$(BIN)/rollstream demo $(ARGS)

example: setup ## train a tiny model, sync and async, on completions from a real worker; ARGS="--help" says more
	@$(BIN)/python -m examples.grpo_async $(ARGS)

distill: setup ## let a tiny student learn from a tiny teacher's likeliest tokens; ARGS="--help" says more
	@$(BIN)/python -m examples.distill $(ARGS)

agent: setup ## a tool-using agent through the gateway, one of two workers killed, then a step of GRPO; ARGS="--help" says more
	@$(BIN)/python -m examples.agent $(ARGS)

chaos: setup ## thousands of jobs under every fault we know, then an audit; ARGS="--help" says more
	@$(BIN)/python -m tests.chaos.run $(ARGS)

docs: setup ## the documentation's site in build/site, strict about links and pages left out
	@bash tools/extra_env.sh docs
	@$(BIN)/python -m tools.site build/pages
	@NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict --quiet
	@echo "build/site/index.html: look at it with $(BIN)/python -m http.server --directory build/site"

autoscale: setup ## scale real workers over a made-up day as KEDA does it, then an audit; ARGS="--help" says more
	@$(BIN)/python -m tests.autoscaling.run $(ARGS)

families: setup ## each family of models on the real engine beside transformers and peft; ARGS="--help" says more
	@$(BIN)/python -m tests.families $(ARGS)

release: setup ## sdist, wheel, bill of materials and SHA256SUMS of the last commit, in dist
	@bash tools/extra_env.sh release
	@.venv-release/bin/python -m tools.release

test-installs: setup ## what `make release` made, in clean environments of Python 3.11 to 3.13, with torch; gigabytes
	@$(BIN)/python -m tests.installs.run $(ARGS)

bench: setup ## every benchmark that needs no GPU, results in runs/bench; ARGS="--stage memory" or "--help" says more
	@$(BIN)/python -m benchmarks.cpu $(ARGS)

test: lint ## lint, then all tests in three processes; ARGS="-k padding" goes to pytest, and -n 0 means one process
	@echo "== pytest"
	@$(PYTEST) $(ARGS)

test-large: setup ## what `make test` has on a small scale, with large numbers and long waits; ARGS goes to pytest
	@$(PYTEST) --large --ignore=tests/images $(ARGS)

test-vllm: setup ## the tests of the real engine with other vLLMs, each in its own environment; ARGS="--help" says more
	@$(BIN)/python -m tests.vllm_versions $(ARGS)

test-redis: setup ## all tests of the queue, once for each redis-server found (6.2, 7, 8, Valkey, PATH's); ARGS goes to pytest
	@$(BIN)/python -m tests.support.redis_servers $(PYTEST) -m "not vllm" $(ARGS)

image: ## build the image FLAVOUR=gpu|cpu|stub with docker, podman or buildah; ARGS goes to the builder
	@FLAVOUR="$(FLAVOUR)" ARGS="$(ARGS)" bash tools/image/build.sh

image-pins: setup ## renew what pins the GPU image and the program that lists parts; needs Python 3.11
	@$(BIN)/python tools/image/pin.py

test-images: setup ## run what `make image` built with buildah, stub and cpu, as containers; as root; ARGS goes to pytest
	@$(BIN)/python -m pytest --large tests/images $(ARGS)

lint: setup ## ruff, mypy, and which room may import which; two checks at a time
	@$(MAKE) --no-print-directory --jobs=2 --output-sync lint-types lint-style lint-rooms

lint-style:
	@echo "== ruff check"
	@$(BIN)/ruff check .
	@echo "== ruff format --check"
	@$(BIN)/ruff format --check .

lint-types:
	@echo "== mypy"
	@$(BIN)/mypy

lint-rooms:
	@echo "== lint-imports"
	@$(BIN)/lint-imports

format: setup ## mend what ruff can mend, and lay the code out
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

clean: ## remove .venv, caches and build leftovers
	@rm -rf .venv .venv-docs .venv-release build dist .demo runs *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
