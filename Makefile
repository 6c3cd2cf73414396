# `make help` lists the targets. Everything is set up by itself, in .venv, with the versions of constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
IMAGES ?=
CLUSTER ?=
RECIPE ?=
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup run test test-all lint fmt deps retrain plan audit ui clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: set PYTHON=python3.x" >&2; exit 69; }
	@$(PYTHON) -m venv $(VENV) || { echo "the venv module is missing: apt install python3-venv" >&2; exit 69; }
	@echo "installing the pinned dependencies into $(VENV) (two to five minutes, once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

setup: $(READY) ## the virtual environment with pinned dependencies

run: $(READY) ## the whole pipeline; IMAGES=folder, archive or links; CLUSTER=auto, host:port, a profile (infra/ray); RECIPE=a name in recipes/
	@python -m pipeline.run $(if $(IMAGES),--images '$(IMAGES)') $(if $(CLUSTER),--cluster '$(CLUSTER)') $(if $(RECIPE),--recipe '$(RECIPE)')

test: $(READY) ## the tests that take minutes
	@python -m pytest -q -m "not slow" -n logical --maxprocesses 4 --dist loadfile

test-all: $(READY) ## all tests
	@python -m pytest -q

lint: $(READY) ## format, style, types, direction of imports
	@ruff format --check . && ruff check . && lint-imports && mypy

fmt: $(READY) ## format and mend what can be mended
	@ruff format . && ruff check --fix .

deps: $(READY) ## write into dvc.yaml what each stage imports
	@PYTHONPATH=tests python -m closure

retrain: $(READY) ## train where there is a reason to (new data, drift, age); what a schedule calls
	@python -m pipeline.retrain

plan: $(READY) ## before a long run: its time, memory and disk, foreseen from a few steps
	@python -m pipeline.plan

audit: ## known vulnerabilities of the pinned dependencies, where the databases can be reached
	@sh infra/audit.sh

ui: $(READY) ## MLflow on http://127.0.0.1:5000
	@python -m pipeline.ui

clean: ## remove everything that was produced but the environment
	@rm -rf .work data/raw data/processed data/augmented models reports mlflow.db mlartifacts .dvc/cache .dvc/tmp
