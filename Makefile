# pacspark: `make demo` and `make test` do all the set-up on a machine with Python >= 3.11 and make.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN_STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev

.PHONY: help demo test test-slow bench lint lock viewer notebooks clean java peers

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

demo: $(RUN_STAMP) java ## the main job on real input, from projections to a picture
	@$(BIN)/python scripts/jars.py delta
	@$(BIN)/python examples/demo.py build/demo

test: $(DEV_STAMP) java peers ## everything it needs, then the test suite
	@$(BIN)/python -m pytest -m "not slow"

test-slow: $(DEV_STAMP) java peers ## the tests that take minutes
	@$(BIN)/python -m pytest -m slow

bench: $(DEV_STAMP) java ## benchmarks, one JSON line per case, rivals in the same run
	@for file in benchmarks/benchmark_*.py; do $(BIN)/python -m benchmarks.$$(basename $$file .py); done

lint: $(DEV_STAMP) ## ruff, mypy, import contracts
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports

viewer: $(RUN_STAMP) ## fetch OHIF, the viewer that the gateway serves, from npm (once)
	@$(BIN)/python -m pacspark viewer install

notebooks: $(DEV_STAMP) java ## execute the notebooks in place
	@for file in notebooks/*.ipynb; do $(BIN)/jupyter execute --inplace $$file; done

lock: $(DEV_STAMP) ## write the exact versions that `make` installs
	@$(BIN)/pip-compile -q --upgrade --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --strip-extras --unsafe-package pacspark --extra all -o requirements.lock pyproject.toml
	@$(BIN)/pip-compile -q --upgrade --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --strip-extras --unsafe-package pacspark --extra all --extra dev -c requirements.lock -o requirements-dev.lock pyproject.toml

clean: ## remove what was built; the download cache outside the checkout stays
	rm -rf build dist $(VENV) *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis spark-warehouse

java:
	@scripts/java.sh

peers: $(DEV_STAMP) java
	@scripts/peers.sh

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python: expected 3.11 or newer, found $$($(PYTHON) --version 2>&1); set PYTHON=..." >&2; exit 1; }
	@echo "creating $(VENV)" >&2
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "venv: on Debian or Ubuntu install python3-venv" >&2; exit 1; }

$(RUN_STAMP): requirements.lock pyproject.toml | $(VENV)/bin/python
	@echo "installing pacspark and what it needs (about 1 GB, once)" >&2
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

$(DEV_STAMP): requirements-dev.lock $(RUN_STAMP) | $(VENV)/bin/python
	@echo "installing what the tests need (about 1 GB, once)" >&2
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.lock
	@touch $@
