# Two commands do everything on a machine with git, make, python3 (3.11+) and python3-venv: `make run` and `make test`.

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
ARGS ?=

# Where this is set, each of a thousand processes compiles what it imports anew, which takes longer than the tests.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test test-slow check audit bench policy reference clean help

help:            ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 14

run: $(VENV)/.run      ## a router on 127.0.0.1:8002 with models found here, fetched or made (another port: ARGS="--port 8003")
	@$(BIN)/llm-router demo $(ARGS)

test: $(VENV)/.dev     ## the default tests, a few minutes (some of them: ARGS="-n 0 tests/core")
	@$(BIN)/pytest $(ARGS)

test-slow: $(VENV)/.dev  ## the long ones: hundreds of kills, long runs
	@$(BIN)/pytest -m slow -n 2 $(ARGS)

check: $(VENV)/.dev    ## lint, types, import rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/shellcheck install.sh scripts/*.sh .ci/run tests/box/systemd-box tests/programs/*.sh

audit: $(VENV)/.dev $(VENV)/audit/bin/pip-audit  ## what is known to be vulnerable among what is installed; asks pypi.org
	@$(PIP) freeze --exclude-editable > $(VENV)/audit/installed.txt
	@$(VENV)/audit/bin/pip-audit --strict --disable-pip --no-deps --requirement $(VENV)/audit/installed.txt

bench: $(VENV)/.dev    ## what the router costs, beside nginx if there is one: see bench/README.md
	@$(BIN)/python -m bench $(ARGS)

policy: $(VENV)/.dev   ## play the built-in traces and write docs/reference/policy.md
	@$(BIN)/llm-router simulate --all > docs/reference/policy.md.new
	@mv docs/reference/policy.md.new docs/reference/policy.md

conformance: $(VENV)/.dev  ## real engines, installed into a cache, asked the contract: see conformance/README.md
	@$(BIN)/python -m conformance $(ARGS)

reference: $(VENV)/.dev  ## generate the reference pages from the code
	@$(BIN)/python -m llm_router.config.reference
	@$(BIN)/python docs/generate.py

clean:           ## remove what these targets made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# Beside the environment that it looks at: what it needs itself is nobody's dependency.
$(VENV)/audit/bin/pip-audit: | $(VENV)/bin/python
	@$(PYTHON) -m venv $(VENV)/audit
	@$(VENV)/audit/bin/python -m pip install --quiet 'pip-audit>=2.9,<3'

# A half-made environment would pass for a whole one the next time, so it is removed.
$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "there is no $(PYTHON): install it (Debian, Ubuntu: sudo apt install python3 python3-venv)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "llm-router needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) -V 2>&1):" \
	       "name another with make PYTHON=/path/to/python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
	  echo "$(PYTHON) can't make virtual environments: install its venv package" \
	       "(Debian, Ubuntu: sudo apt install python3-venv)" >&2; exit 1; }
	@echo "Making a virtual environment in $(VENV) ..."
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.run: pyproject.toml | $(VENV)/bin/python
	@echo "Installing llm-router into $(VENV) (once, about 260 MB) ..."
	@$(PIP) install -e '.[demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	@echo "Installing llm-router and its development tools into $(VENV) (once) ..."
	@$(PIP) install -e '.[dev]'
	@touch $@ $(VENV)/.run
