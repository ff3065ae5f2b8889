# Every target sets up what it needs. Nothing here needs root.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
# One more than cores: a fifth of the time a test waits for a server. On two cores three workers take 11 minutes.
JOBS ?= $(shell echo $$(($$(nproc 2>/dev/null || echo 2) + 1)))
PYTEST = $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-long fuzz check fix bench bench-backups docs lock wheel clean

help: ## what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.ready ## everything into .venv, pinned by requirements.lock

$(VENV)/.ready: pyproject.toml requirements.lock
	@test -n "$(PYTHON)" || { echo "dbshield needs Python 3.11 or newer on the PATH"; exit 2; }
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: setup ## the shield at work on an embedded PostgreSQL, in under a minute
	@$(BIN)/dbshield demo

test: setup ## all tests, on every PostgreSQL that is here
	@$(PYTEST)

test-long: setup ## the campaigns that take longer than a coffee
	@$(PYTEST) -m long

fuzz: setup ## until something breaks or Ctrl-C
	@while DBSHIELD_FUZZ=1 $(BIN)/python -m pytest -q -x tests/fuzz tests/unit -m hypothesis; do :; done; exit 1

check: setup ## style, types, and the direction of imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

fix: setup ## what a tool can mend
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: setup ## side by side with a direct connection and PgBouncer, one table
	@$(BIN)/python -m bench

bench-backups: setup ## backups and drills beside PostgreSQL's own tools and pgBackRest, on 2 GB
	@$(BIN)/python -m bench.backups

docs: setup ## the generated reference pages, every link and command in docs/ looked at, and the site in build/site
	@$(BIN)/python -m docs.build
	@$(BIN)/python -m docs.check
	@$(BIN)/python -m docs.site

lock: setup ## pin the newest versions that pyproject.toml allows
	@$(BIN)/pip-compile --quiet --upgrade --generate-hashes --allow-unsafe --strip-extras --no-header --no-emit-index-url \
		--no-emit-trusted-host --no-emit-find-links --extra dev --extra objectlock --extra otel --output-file requirements.lock pyproject.toml

wheel: setup ## the wheel, into dist/
	@$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist .

clean: ## what was made here
	@rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
