# Everything runs in .venv, which is made on first use. `make` lists the targets.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-gpu lint format docs bench clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

$(STAMP): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	touch $@

setup: $(STAMP) ## make .venv with the pinned dependencies and the package

demo: setup ## text to encoder to classifier to report, on built-in text, in a few minutes
	$(BIN)/python experiments/demo/demo.py

test: setup ## the tests
	$(BIN)/python -m pytest

test-slow: setup ## all tests, the slow ones too
	$(BIN)/python -m pytest -m "slow or not slow"

test-gpu: setup ## what needs a CUDA device; skips where there is none
	$(BIN)/python -m pytest -m gpu tests/gpu

lint: setup ## style, types, and which room may import which
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: setup ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: setup ## the documentation as HTML under docs/_build
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	$(BIN)/python -m sphinx -W --quiet docs docs/_build

bench: setup ## the benchmarks on this machine
	$(BIN)/python experiments/benchmarks/data.py
	$(BIN)/python experiments/benchmarks/packed_attention.py

clean: ## remove .venv and everything that was built; runs and data stay
	rm -rf .venv build dist docs/_build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
