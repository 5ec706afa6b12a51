# Everything a newcomer needs: `make demo`, `make up`, `make test`. `make help` lists the rest.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
# Tests wait for servers and processes as often as they compute, also where there are but two cores.
WORKERS ?= 3
BENCH_READY := $(VENV)/.installed-bench
LITELLM := .venv-litellm
# Some images forbid Python to keep what it compiled; every process that is started would compile all of it again.
unexport PYTHONDONTWRITEBYTECODE
OFFLINE := tests/llm tests/agents tests/test_loopback.py $(addprefix tests/api/test_,llm.py agent_memory.py console_agents.py)

.DEFAULT_GOAL := help
.PHONY: help setup demo build-agents up down browser test offline check format vendor basemap bench clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY) ## Make the virtual environment and install what constraints.txt pins

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Stemma needs Python 3.11 or newer; name one with make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Installing into $(VENV); the first time takes a few minutes."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(BENCH_READY): $(READY)
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,bench]'
	@$(PYTHON) -m venv $(LITELLM)
	@$(LITELLM)/bin/pip install --quiet --disable-pip-version-check 'litellm[proxy]==1.106.2'
	@touch $@

demo: $(READY) ## Materialize the whole graph on the samples and show what was built
	@$(BIN)/stemma demo

up: $(READY) ## Serve the API, the Dagster UI, sensors and schedules until Ctrl-C
	@$(BIN)/stemma up

build-agents: $(READY) ## Publish what the agents are told, look at the models, ping every agent
	@$(BIN)/stemma agent check

down: $(READY) ## Stop the embedded Postgres
	@$(BIN)/stemma down

browser: $(READY) ## Find Chromium or install it
	@$(BIN)/stemma browser install

test: $(READY) ## Run the tests, side by side where there are cores
	@$(BIN)/stemma browser install || echo "The tests that need a browser are skipped."
	@$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadscope --no-loadscope-reorder

offline: $(READY) ## Test models and agents on a network that has nothing but loopback (Linux, as root)
	@unshare --net sh -c 'ip link set lo up && exec $(BIN)/python -m pytest $(OFFLINE)'

check: $(READY) ## Lint, types, import rules and definitions
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/dg check defs
	@$(BIN)/python -m pytest -q tests/test_docs.py

format: $(READY) ## Format the code
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

vendor: $(READY) ## Copy the console's libraries from npm, as vendor.json pins them
	@$(BIN)/python -m api.console.vendor

basemap: $(READY) ## Build the map's basemap from Natural Earth by way of npm, as world.json pins it
	@$(BIN)/python -m api.console.basemap

bench: $(BENCH_READY) ## Measure ratios against peers and limits; results in benchmarks/results
	@$(BIN)/python -m benchmarks

clean: ## Remove the environment and caches, never the data in .stemma
	@rm -rf $(VENV) $(LITELLM) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache *.egg-info
