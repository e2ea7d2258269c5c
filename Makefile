# Two environments, because Triton's wheel pins numpy below 2. Nothing but Python 3.11 is needed.
SHELL := /bin/bash
.DEFAULT_GOAL := help

# Without bytecode every process compiles every import again.
unexport PYTHONDONTWRITEBYTECODE
# uv does not read pip's configuration: hand it what pip was told about wheels on this machine.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
# One thread per numeric pool: spinning pools collapse on a machine with few cores.
export OMP_NUM_THREADS := 1
export MLFLOW_DISABLE_TELEMETRY := true
export MLFLOW_ALLOW_PICKLE_DESERIALIZATION := false
export ORT_DISABLE_TELEMETRY := 1
export DO_NOT_TRACK := true
export PYTHONWARNINGS ?= ignore

PYTHON ?= python3.11
BIN := .venv/bin
UV := $(BIN)/uv

.PHONY: help install demo down dev test test-fast bench lint format constraints clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 16

install: .venv/installed .venv-triton/installed ## Make both environments from pinned constraints

.venv/installed: pyproject.toml serving/pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is needed; name another with PYTHON=..."; exit 1; }
	@echo "environment of the project ..."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check uv
	@$(UV) pip install --quiet --native-tls --compile-bytecode --python $(BIN)/python \
		--constraint constraints.txt --group dev --editable ".[cluster]" --editable serving
	@touch $@

.venv-triton/installed: serving/constraints-triton.txt | .venv/installed
	@echo "environment of Triton ..."
	@$(PYTHON) -m venv .venv-triton
	@$(UV) pip install --quiet --native-tls --compile-bytecode --python .venv-triton/bin/python \
		--requirement serving/constraints-triton.txt
	@touch $@

demo: install ## Turn the wheel once on the flights of 2013; leaves everything running
	@$(BIN)/python -m jobs.demo

down: ## Stop what `make demo` and `make dev` left running
	@test ! -x $(BIN)/flywheel || $(BIN)/flywheel down

dev: install ## Open the project in the Dagster UI, with serving and MLflow beside it
	@$(BIN)/flywheel up
	@echo "code is read anew by: Deployment -> Reload, or make down dev"

test: install ## Run every test, the slow ones too, and lint
	@$(MAKE) --no-print-directory lint
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-fast: install ## Run the tests that take seconds
	@$(BIN)/python -m pytest -m "not slow"

bench: install ## Measure side by side and print the tables
	@$(BIN)/python -m bench

lint: install ## Check style, types and definitions
	@$(BIN)/pre-commit run --all-files
	@VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/dg check defs >/dev/null
	@$(BIN)/dagster definitions validate --log-level error

format: install ## Fix style
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format --quiet .

constraints: ## Write the installed versions into the constraints files
	@$(UV) pip freeze --python $(BIN)/python --exclude-editable | grep -v ^uv== | sed 's/+cpu$$//' > constraints.txt
	@$(UV) pip freeze --python .venv-triton/bin/python | grep -v ^uv== > serving/constraints-triton.txt

clean: down ## Remove all local state (not the environments)
	@rm -rf .flywheel
