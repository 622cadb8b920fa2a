# Two commands do everything on a machine with git, make, python3 (3.11+) and python3-venv: `make run` and `make test`.

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
ARGS ?=

.PHONY: run test test-slow check bench reference clean help

help:            ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 14

run: $(VENV)/.run      ## a router on 127.0.0.1:8002 with real models (fetched or made if the machine has none)
	@$(BIN)/llm-router demo $(ARGS)

test: $(VENV)/.dev     ## the default tests: under three minutes
	@$(BIN)/pytest $(ARGS)

test-slow: $(VENV)/.dev  ## the long ones: hundreds of kills, long runs
	@$(BIN)/pytest -m slow -n 0 $(ARGS)

check: $(VENV)/.dev    ## lint, types, import rules, generated docs
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

bench: $(VENV)/.dev    ## what the router costs, beside nginx if there is one: see bench/README.md
	@$(BIN)/python -m bench $(ARGS)

reference: $(VENV)/.dev  ## generate the reference pages from the code
	@$(BIN)/python -m llm_router.config.reference

clean:           ## remove what these targets made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "llm-router needs Python 3.11 or newer: set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "python3 can't make virtual environments: sudo apt install python3-venv" >&2; exit 1; }

$(VENV)/.run: pyproject.toml | $(VENV)/bin/python
	@echo "Installing llm-router into $(VENV) (once) ..."
	@$(PIP) install -q -e '.[demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	@echo "Installing llm-router and its development tools into $(VENV) (once) ..."
	@$(PIP) install -q -e '.[dev]'
	@touch $@ $(VENV)/.run
