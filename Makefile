# One environment, .venv, shared by all targets; a stamp in it says for which checkout it is whole.
# `make clean` and PYTHON=... choose another interpreter.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:

PYTHON ?=
ARGS ?=
OUT ?= out
PORT ?= 5000
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help sweep test test-fast check format docs ui has-runs npm-packages clean
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

sweep: $(VENV)/.whole-lite ## run a sweep: make sweep ARGS='--help'
	@$(BIN)/python sweeps/fixres_grid.py $(ARGS)

test: check npm-packages ## lint, types, import rules, then the tests, two files at a time: make test ARGS='-k name'
	@$(BIN)/python -m pytest -n 2 --dist loadfile --durations=25 --durations-min=10 $(ARGS)

test-fast: $(VENV)/.whole-dev ## the tests that need no Ray, no server and little time: a minute on two idle cores
	@$(BIN)/python -m pytest --fast -n 2 --dist loadfile --durations=5 --durations-min=3 $(ARGS)

check: $(VENV)/.whole-dev ## lint, types and import rules alone
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports --no-logo

format: $(VENV)/.whole-dev ## put the code into the form that check wants
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.whole-lite ## write the tables of docs/options.md, and the notebook of the tutorial
	$(BIN)/python docs/write_options.py
	$(BIN)/python docs/write_tutorial.py

ui: has-runs $(VENV)/.whole-lite ## look at a sweep's runs in MLflow: make ui OUT=folder
	@uri=$$($(BIN)/python -c 'import pathlib, sys; from sweeps.tracking.access.connection import sqlite_uri; \
	    print(sqlite_uri(pathlib.Path(sys.argv[1]).resolve() / "mlflow.db"))' '$(OUT)'); \
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(BIN)/mlflow ui --workers 1 --backend-store-uri "$$uri" --host 127.0.0.1 --port $(PORT)

has-runs: # before a set-up of minutes
	@test -e '$(OUT)/mlflow.db' || { echo "No $(OUT)/mlflow.db: run a sweep first, or name its folder with OUT=..." >&2; exit 1; }

clean: ## remove the environments and the tools' caches (never a sweep's results)
	rm -rf $(VENV) $(VENV).lock node_modules .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build dist *.egg-info
	find sweeps trainables tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Set-up. A stamp holds the path that the environment was made for: one that was copied or moved, or whose interpreter
# is gone, is made anew.
ifneq ($(shell cat $(VENV)/.whole-lite 2>/dev/null && $(BIN)/python -c '' 2>&1),$(CURDIR))
$(VENV)/.whole-lite $(VENV)/.whole-dev: REMAKE
endif
.PHONY: REMAKE
REMAKE:

$(VENV)/.whole-lite: pyproject.toml constraints.txt
	@$(call set_up,lite,.whole-lite)

$(VENV)/.whole-dev: pyproject.toml constraints.txt
	@$(call set_up,lite$(comma)openvino$(comma)dev,.whole-lite .whole-dev)

# Tests of the page and of JavaScript are skipped, with the reason, where the packages cannot be had. None runs a script
# of its own in being installed.
npm-packages:
	@whole() { cmp -s package.json node_modules/.whole; }; \
	if ! command -v npm > /dev/null || whole; then exit 0; fi; \
	if ! { exec 9> $(VENV).lock; } 2> /dev/null; then \
	    echo "The packages of package.json cannot be had, as this folder cannot be written to:" \
	        "tests that need them are skipped." >&2; exit 0; fi; \
	if command -v flock > /dev/null; then flock 9; fi; \
	if whole; then exit 0; fi; \
	echo "Setting up node_modules: takes seconds (half a GB)."; \
	if npm install --no-package-lock --ignore-scripts --no-audit --no-fund --fetch-retries 0 --fetch-timeout 20000 --loglevel error; \
	then cp package.json node_modules/.whole; \
	else echo "The packages of package.json cannot be had: tests that need them are skipped." >&2; fi

comma := ,

# $(call set_up,EXTRAS,STAMPS): under a lock, as two makes may run at once. While .venv/.unfinished exists, an
# installation is going on or was cut off; the next one then starts from an empty environment.
define set_up
exec 9> $(VENV).lock; if command -v flock > /dev/null; then flock 9; fi; \
whole() { for s in $2; do \
    test $(VENV)/$$s -nt pyproject.toml && test $(VENV)/$$s -nt constraints.txt \
    && test "$$(cat $(VENV)/$$s)" = '$(CURDIR)' || return 1; done; $(BIN)/python -c ''; }; \
if whole 2> /dev/null; then exit 0; fi; \
if test -e $(VENV)/.unfinished || ! test -e $(VENV)/.whole-lite \
    || test "$$(cat $(VENV)/.whole-lite)" != '$(CURDIR)' || ! $(BIN)/python -c '' 2> /dev/null; then \
    fits='import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'; \
    python=; for p in $(or $(PYTHON),python3 python3.13 python3.12 python3.11); do \
        if $$p -c "$$fits" 2> /dev/null; then python=$$p; break; fi; done; \
    if test -z "$$python"; then \
        echo "No Python 3.11 to 3.13 with the venv module among: $(or $(PYTHON),python3 python3.13 python3.12 python3.11)." \
            "Install one (Debian: python3-venv), or name it: make PYTHON=/path/to/python3" >&2; exit 1; fi; \
    echo "Setting up .venv with $$($$python --version) and [$1]: takes minutes (PyTorch is several GB)."; \
    rm -f $(VENV)/.whole-*; rm -rf $(VENV); mkdir $(VENV); touch $(VENV)/.unfinished; \
    $$python -m venv $(VENV); \
else \
    echo "Bringing .venv up to date with pyproject.toml and constraints.txt for [$1]."; \
    touch $(VENV)/.unfinished; rm -f $(VENV)/.whole-*; \
fi; \
$(BIN)/python -m pip install -q -c constraints.txt -e '.[$1]'; \
for s in $2; do printf %s '$(CURDIR)' > $(VENV)/$$s; done; rm $(VENV)/.unfinished
endef
