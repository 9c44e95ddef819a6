# `make help` lists the targets. The environment is .venv; PYTHON names the interpreter that makes it.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP_INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check --no-input --require-hashes
# Stamps: a second call installs nothing and needs no network.
RUNTIME := $(VENV)/.installed-runtime
DEV := $(VENV)/.installed-dev
PYTEST_WORKERS ?= 2
BENCHES := shards dirty_data checks roadmaps copying "lists sqlite" "lists postgresql"
QUICK_ARGS := --quick --repeat 1 --parts speed,again --row-seconds 15
QUICK_BENCHES := "dirty_data --jobs 10000 --repeat 1" "checks --rows 100000 --repeat 1" \
	"roadmaps --roadmaps 4000 --repeat 1" "lists sqlite --rows 1000 20000 --repeat 2"
UV := uv==0.13.9
# The tests choose their own settings.
unexport DJANGO_SETTINGS_MODULE

.PHONY: help setup demo test lint bench messages lock clean

help: ## this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18

$(RUNTIME): requirements.txt tools/make-venv
	@PYTHON="$(PYTHON)" tools/make-venv $(VENV)
	@echo "Installing the pinned packages into $(VENV) ..."
	@$(PIP_INSTALL) -r requirements.txt
	@touch $@

$(DEV): requirements-dev.txt | $(RUNTIME)
	@echo "Installing the pinned development packages into $(VENV) ..."
	@$(PIP_INSTALL) -r requirements-dev.txt
	@touch $@

setup: $(RUNTIME) ## environment, databases and schedules; safe to repeat
	@$(PY) manage.py setup

demo: $(RUNTIME) ## the console with sample data, web server and worker
	@$(PY) manage.py setup --demo
	@exec $(PY) manage.py demo

test: $(DEV) setup ## all tests; ARGS="-k name" is passed on, PYTEST_WORKERS=0 for one process
	@$(PY) -m pytest -n $(PYTEST_WORKERS) --dist worksteal $(ARGS)

lint: $(DEV) ## style, spelling, types, import rules, migrations, documentation
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(VENV)/bin/typos
	$(PY) -m mypy
	$(VENV)/bin/lint-imports
	$(PY) manage.py makemigrations --check --dry-run
	$(PY) -m tests.docs_check

bench: $(DEV) ## the figures in the documentation, measured on this machine; QUICK=1 takes less than 5 minutes
	@$(PY) -m tests.benchmarks $(if $(QUICK),$(QUICK_ARGS),$(ARGS))
	@$(if $(ARGS),,for part in $(if $(QUICK),$(QUICK_BENCHES),$(BENCHES)); do $(PY) -m tests.benchmarks.$$part; done)

messages: $(DEV) ## collects and compiles the translations
	@command -v xgettext >/dev/null || { echo "gettext is missing: apt-get install gettext" >&2; exit 1; }
	@$(PY) manage.py makemessages --locale zh_Hans --add-location file --no-wrap \
		--ignore '.venv/*' --ignore 'data/*' --ignore 'tests/*'
	@$(PY) manage.py compilemessages --locale zh_Hans --ignore '.venv/*'

lock: ## requirements*.txt from pyproject.toml; ARGS=--upgrade moves what is not pinned there
	@folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	$(PYTHON) -m venv "$$folder"; \
	"$$folder/bin/python" -m pip install --quiet --disable-pip-version-check $(UV); \
	compile() { "$$folder/bin/uv" pip compile --quiet --python-version 3.11 --generate-hashes --no-header \
		--no-annotate --no-emit-index-url --no-emit-find-links pyproject.toml $(ARGS) "$$@"; }; \
	compile --output-file requirements.txt; \
	compile --extra dev --constraint requirements.txt --output-file requirements-dev.txt

clean: ## removes caches and collected files; keeps data/ (it holds the undo) and .venv
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis staticfiles data/static
	@find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
