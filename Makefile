# Two commands matter: `make demo` shows the product, `make test` proves it. Both start from nothing.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
PG15 := /usr/lib/postgresql/15/bin
ARGS ?=
SEEDS ?= 2000
MINUTES ?= 30
CONSOLE := src/durable_agent/_console/index.html

# The suite starts hundreds of processes: what they import is compiled once, whatever the caller's environment says.
unexport PYTHONDONTWRITEBYTECODE

# Environment, console and browser are made side by side, and so are the checks.
ifeq ($(MAKELEVEL),0)
MAKEFLAGS += --jobs=3
endif

.DEFAULT_GOAL := help
.PHONY: help env console console-test console-if-npm browser demo up test lint types contracts format openapi screenshots chaos campaigns bench fuzz models interleave simulate mutants peers soak lock clean

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 20

env: $(STAMP) ## the Python environment in .venv, hash-checked

# An environment that another Python made is of no use and is made anew. The pip that comes with Python takes twice as long as the
# locked one, and a lock that is whole needs no resolving. Most of what is installed is never imported; what the product imports is
# compiled here, for later PYTHONDONTWRITEBYTECODE may forbid it.
$(STAMP): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: apt-get install python3.11 python3.11-venv"; exit 1; }
	@grep -qsxF "home = $$($(PYTHON) -c 'import os, sys; print(os.path.dirname(sys._base_executable))')" $(VENV)/pyvenv.cfg || rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) cannot make an environment: apt-get install python3.11-venv"; exit 1; }
	@sed -n '/^pip==/,/[^\\]$$/p' requirements.lock | $(PIP) --require-hashes -r /dev/stdin
	$(PIP) --no-compile --no-deps --require-hashes -r requirements.lock
	$(PIP) --no-deps --no-build-isolation -e .
	@$(BIN)/python -c "import pkgutil, durable_agent as da; \
	[__import__(m.name) for m in pkgutil.walk_packages(da.__path__, 'durable_agent.') if '__main__' not in m.name]"
	@touch $(STAMP)

console: $(CONSOLE) ## the web console, built into the package (needs Node.js 20.19 or later)

console/node_modules/.package-lock.json: console/package-lock.json
	npm --prefix console ci --ignore-scripts --no-audit --no-fund
	@touch $@

$(CONSOLE): console/node_modules/.package-lock.json console/package.json console/index.html console/vite.config.ts \
  console/tsconfig.json $(shell find console/src console/public -type f ! -name '*.test.*' 2>/dev/null)
	npm --prefix console run build
	@touch $@

# Nothing of the engine needs it: without npm, or where it cannot be built, it is left out and that is said.
console-if-npm:
	@if ! command -v npm >/dev/null; then test -f $(CONSOLE) || echo "npm is not installed: the web console is left out"; \
	else $(MAKE) --no-print-directory console || echo "the web console could not be built and is left out (it needs Node.js 20.19 or later)"; fi

demo: env console-if-npm ## everything at once: embedded PostgreSQL, API, two workers, a run, a kill -9, the end
	$(BIN)/durable-agent demo $(ARGS)

up: env console-if-npm ## the whole system with the demo's tools and the examples, until Ctrl-C
	$(BIN)/durable-agent up --import durable_agent.flow.demo --import workers.examples.research_swarm \
	  --import workers.examples.triage --import workers.examples.vendor_onboarding $(ARGS)

# Debian's browser, for the tests of the console; without root they are left out, and that is said.
browser:
	@command -v chromium >/dev/null || if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null; \
	else echo "Chromium is not installed: the tests of the console in a browser are left out"; fi

console-test: console
	npm --prefix console test

test: env console-test browser ## the suite: on the embedded PostgreSQL and on Debian's 15 where it is installed
	TEST_POSTGRES=embedded $(BIN)/pytest -n 3 $(ARGS)
	@if [ ! -x $(PG15)/initdb ]; then echo "PostgreSQL 15 is not installed: its share of the suite is left out"; \
	else echo "TEST_POSTGRES=15 pytest"; TEST_POSTGRES=15 $(BIN)/pytest -n 4 $(ARGS); fi

lint: env ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: env ## mypy --strict
	$(BIN)/mypy --num-workers 2

contracts: env ## who may import whom
	$(BIN)/lint-imports

format: env
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

openapi: env ## the OpenAPI document and the console's types, anew (the types need npx)
	$(BIN)/python scripts/openapi.py

screenshots: env console browser ## every screen of the console in both themes, into docs/images
	$(BIN)/python scripts/screenshots.py $(ARGS)

chaos: env ## kill -9, zombies, crashes of PostgreSQL; ARGS="--campaign network --minutes 5 --seed 1"
	$(BIN)/python scripts/chaos.py $(ARGS)

# Minutes of each: enough for a verdict of its own. A campaign that this machine cannot run says so, and the others go on.
CAMPAIGNS ?= faults:18 network:3 clock:3 disk:2 failover:3 pooler:2 snapshot:1 memory:1
RESULTS ?= docs/results
campaigns: env ## every chaos campaign, one after the other, with its result file; CAMPAIGNS="network:3 clock:1"
	@failed=; for one in $(CAMPAIGNS); do name=$${one%%:*}; echo "== $$name, $${one##*:} min"; \
	$(BIN)/python scripts/chaos.py --campaign $$name --minutes $${one##*:} --seed 1 --json $(RESULTS)/chaos-$$name.json; \
	case $$? in 0|3) ;; *) failed="$$failed $$name";; esac; done; test -z "$$failed" || { echo "failed:$$failed"; exit 1; }

bench: env console-if-npm ## the figures, as ratios to pgbench in the same run
	$(BIN)/python scripts/bench.py $(ARGS)

interleave: env ## every pair of the engine's verbs, statement by statement; ARGS="--pairs cancel,succeed"
	$(BIN)/python scripts/interleave.py $(ARGS)

simulate: env ## workers, store and clients in virtual time, one world a seed; SEEDS=2000 ARGS="--mutants"
	$(BIN)/python scripts/simulate.py --seeds $(SEEDS) $(ARGS)

mutants: env ## small wrong versions of the protocol, each refused by a test; ARGS="--only fence"
	$(BIN)/python scripts/mutants.py $(ARGS)

peers: env ## the engine beside its peers on one server; ARGS="--only absurd,dbos --shapes W1"
	$(BIN)/python scripts/peers.py $(ARGS)

soak: env ## half of the peak for MINUTES, with effects, budgets, audit; ARGS="--json soak.json"
	$(BIN)/python scripts/soak.py --minutes $(MINUTES) $(ARGS)

models: env ## the protocol's models: every state searched, every witness caught (needs spin, and tcc or gcc)
	$(BIN)/python scripts/models.py $(ARGS)

fuzz: env ## random requests against the API; ARGS="--seed 1"
	$(BIN)/python scripts/fuzz.py $(ARGS)

lock: ## make requirements.lock anew (needs uv)
	uv pip compile pyproject.toml --extra embedded --extra llm --extra langgraph --group dev --python-version 3.11 --universal \
	  --generate-hashes --no-annotate --no-header --no-emit-index-url -o requirements.lock

clean: ## remove what was made
	rm -rf $(VENV) dist src/durable_agent/_console console/node_modules .pytest_cache .mypy_cache .ruff_cache .hypothesis
