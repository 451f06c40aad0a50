# Everything runs in .venv, which is made on first use. `make` lists the targets.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
BENCHMARKS := experiments/benchmarks
# Where `make bench` writes; a short run must not replace figures that were measured.
RESULTS ?= $(if $(SHORT),build/benchmarks,$(BENCHMARKS)/results)
# Compiling transformers takes a minute, so it is compiled for the smallest model alone.
PLAIN := --contenders fit ours ours_repeated transformers_fused
INFERENCE := $(if $(SHORT),--size tiny --share 0.02 --rounds 1,--share 0.25 --rounds 3)
# Further arguments of pytest: paths, -k, -x, ...
TESTS ?=
# Each process needs about 2 GB. Those of a few chosen tests would take longer to start than the tests.
TEST_PROCESSES ?= $(if $(TESTS),0,2)

# libgomp's threads spin for milliseconds when they wait, which keeps other processes from the cores: two trainings
# side by side each ran at a thirtieth of their speed. Benchmarks keep the setting of the caller.
test test-slow test-gpu demo: export GOMP_SPINCOUNT := $(or $(GOMP_SPINCOUNT),3000)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-gpu lint format docs bench clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

$(STAMP): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test,docs]'
	touch $@

setup: $(STAMP) ## make .venv with the pinned dependencies and the package

demo: setup ## text to encoder to classifier to report, on built-in text, in a few minutes
	$(BIN)/python experiments/demo/demo.py

test: setup ## the tests; TESTS='tests/text -k cased' runs some of them
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) $(TESTS)

test-slow: setup ## all tests, the slow ones too
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) -m "slow or not slow" $(TESTS)

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
	$(BIN)/python -m sphinx -W --quiet docs docs/_build

bench: setup ## the benchmarks of a processor, in less than 15 minutes on two cores; SHORT=1 only shows that each runs
	mkdir -p $(RESULTS)
	$(BIN)/python $(BENCHMARKS)/data.py --megabytes $(if $(SHORT),0.3,6) --json $(RESULTS)/data.json
	$(BIN)/python $(BENCHMARKS)/packed_attention.py --repeats $(if $(SHORT),2,7) --json $(RESULTS)/packed_attention.json
	$(BIN)/python $(BENCHMARKS)/startup.py --rounds $(if $(SHORT),1,2) --json $(RESULTS)/startup.json
	$(BIN)/python $(BENCHMARKS)/scaling.py --processes 1 2 $(if $(SHORT),--size tiny --steps 1 --rounds 1,--steps 8) \
		--json $(RESULTS)/scaling.json
	$(BIN)/python $(BENCHMARKS)/pretraining_step.py --batch-size 32 --sequence-length 128 \
		$(if $(SHORT),--size tiny --rounds 1 --steps 1 $(PLAIN),--size mini --rounds 5 --steps 2 $(PLAIN) \
			transformers transformers_compiled) \
		--json $(RESULTS)/pretraining_step-mini.json
	$(if $(SHORT),,$(BIN)/python $(BENCHMARKS)/pretraining_step.py --size small --batch-size 32 --sequence-length 128 \
		--rounds 5 --steps 1 --limit 60 $(PLAIN) --json $(RESULTS)/pretraining_step-small.json)
	$(if $(SHORT),,$(BIN)/python $(BENCHMARKS)/pretraining_step.py --size base --batch-size 16 --sequence-length 128 \
		--rounds 5 --steps 1 --limit 120 $(PLAIN) --json $(RESULTS)/pretraining_step-base.json)
	$(BIN)/python $(BENCHMARKS)/finetuning.py --task sst2 --share $(if $(SHORT),0.001,0.01) --seeds 1 \
		--json $(RESULTS)/finetuning-sst2.json
	$(BIN)/python $(BENCHMARKS)/finetuning.py --task mrpc --share $(if $(SHORT),0.02,0.1) --seeds 1 \
		--json $(RESULTS)/finetuning-mrpc.json
	$(BIN)/python $(BENCHMARKS)/finetuning.py --task squad --share $(if $(SHORT),0.0002,0.001) --batch-size 16 --seeds 1 \
		--json $(RESULTS)/finetuning-squad.json
	$(BIN)/python $(BENCHMARKS)/inference.py $(INFERENCE) --json $(RESULTS)/inference.json
	$(BIN)/python $(BENCHMARKS)/inference.py $(INFERENCE) --precision bf16-mixed --json $(RESULTS)/inference-bf16.json
	$(BIN)/python $(BENCHMARKS)/memory.py $(if $(SHORT),--first 2 --steps 4,--steps 400) --json $(RESULTS)/memory.json
	$(BIN)/python $(BENCHMARKS)/tables.py --results $(RESULTS)

clean: ## remove .venv and everything that was built; runs and data stay
	rm -rf .venv build dist docs/_build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
