# Two commands matter: `make demo` shows the product, `make test` proves it. Both start from nothing.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PG15 := /usr/lib/postgresql/15/bin
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help env demo up test lint types contracts format chaos bench fuzz lock clean

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 20

env: $(STAMP) ## the Python environment in .venv, hash-checked

$(STAMP): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: apt-get install python3.11 python3.11-venv"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) cannot make an environment: apt-get install python3.11-venv"; exit 1; }
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(STAMP)

demo: env ## everything at once: embedded PostgreSQL, API, two workers, a run, a kill -9, the end
	$(BIN)/durable-agent demo $(ARGS)

up: env ## the whole system with the demo's tools and the examples, until Ctrl-C
	$(BIN)/durable-agent up --import durable_agent.flow.demo --import workers.examples.research_swarm \
	  --import workers.examples.triage --import workers.examples.vendor_onboarding $(ARGS)

test: env ## the suite: on the embedded PostgreSQL, on Debian's 15 where it is installed, and with LISTEN off
	TEST_POSTGRES=embedded $(BIN)/pytest -n 2 $(ARGS)
	@if [ ! -x $(PG15)/initdb ]; then echo "PostgreSQL 15 is not installed: its share of the suite is left out"; \
	else echo "TEST_POSTGRES=15 pytest"; TEST_POSTGRES=15 $(BIN)/pytest -n 2 $(ARGS); fi
	DURABLE_AGENT_LISTEN=off $(BIN)/pytest -n 2 -m live $(ARGS)

lint: env ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: env ## mypy --strict
	$(BIN)/mypy

contracts: env ## who may import whom
	$(BIN)/lint-imports

format: env
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

chaos: env ## kill -9, zombies, crashes of PostgreSQL; ARGS="--minutes 5 --seed 1"
	$(BIN)/python scripts/chaos.py $(ARGS)

bench: env ## the figures, as ratios to pgbench in the same run
	$(BIN)/python scripts/bench.py $(ARGS)

fuzz: env ## random requests against the API; ARGS="--seed 1"
	$(BIN)/python scripts/fuzz.py $(ARGS)

lock: ## make requirements.lock anew (needs uv)
	uv pip compile pyproject.toml --extra embedded --extra llm --extra langgraph --group dev --python-version 3.11 --universal \
	  --generate-hashes --no-annotate --no-header --no-emit-index-url -o requirements.lock

clean: ## remove what was made
	rm -rf $(VENV) dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
