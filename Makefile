# Two commands do everything on a fresh machine with Python >= 3.11: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Those that run: a pyenv shim is there, and fails, where its version is not switched on.
PYTHONS = $(foreach minor,12 13 14,$(shell python3.$(minor) -c 'import sys; print(sys.executable)' 2>/dev/null))
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

PROSE := $(wildcard *.md) docs .github
LOWEST := .venv-lowest
LOWEST_OF := $(shell cat pyproject.toml tests/lowest.py | cksum | cut -d ' ' -f 1)

# The real engines, for `make test-engines`: an environment of its own, named by what it holds, so that it can be kept anywhere.
ENGINES ?= .venv-engines
ENGINES_STAMP := $(ENGINES)/$(shell cat constraints.txt tests/engines/requirements.txt tests/engines/wheels.txt | cksum | cut -d ' ' -f 1).stamp
ENGINES_PIP := $(ENGINES)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps

.PHONY: demo live-demo live-stress test test-lowest test-engines lint bench baseline docs figures dist clean

demo: $(VENV)/demo.stamp
	$(BIN)/evenload demo --plot evenload-demo.png

# A small engine whose experts move while it answers; one of its four processes is killed, and joins again.
live-demo: $(VENV)/dev.stamp
	$(BIN)/python -m examples.tiny_engine

# Seeded deaths of processes that move experts: make live-stress SEED=0 TRIALS=500
SEED ?= 0
TRIALS ?= 500
live-stress: $(VENV)/dev.stamp
	PYTHONPATH=tests/live $(BIN)/python tests/live/stress.py --seed $(SEED) --trials $(TRIALS)

test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest

# A sensible part of the suite under the lowest versions that pyproject.toml declares, but torch's (its wheels bring CUDA along).
test-lowest: $(LOWEST)/$(LOWEST_OF).stamp
	NUMBA_CACHE_DIR=$(abspath $(LOWEST))/kernels $(LOWEST)/bin/python -m pytest -W default::DeprecationWarning tests/cli tests/core/test_packing.py tests/io tests/replay \
	  tests/report tests/solvers/test_exact.py tests/solvers/test_small.py tests/test_*_input.py tests/test_placement.py tests/test_plan.py

test-engines: $(ENGINES_STAMP)
	$(ENGINES_PIP) --editable .
	NUMBA_CACHE_DIR=$(abspath $(ENGINES))/kernels $(ENGINES)/bin/python -m pytest -c tests/engines/pytest.ini tests/engines

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell $(PROSE) benchmarks src tests Makefile pyproject.toml
	$(BIN)/proselint check $(PROSE)

bench: $(VENV)/dev.stamp
	$(BIN)/python -m benchmarks.run

# What got worse than the frozen figures: quality, time, drift, start.
baseline: $(VENV)/dev.stamp
	$(BIN)/python -m benchmarks.baseline

# The site, into build/site. A broken link, a page that no page leads to, or a docstring that cannot be read fails it.
docs: $(VENV)/docs.stamp
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs build/site
	@echo 'Open build/site/index.html'

# What the pages of docs/ show of the program: the command reference, tables, examples, output and pictures.
figures: $(VENV)/dev.stamp
	$(BIN)/python docs/generate.py

# What a release uploads, into dist/. The wheel is installed and tried outside the checkout, under each Python that is there.
dist: $(VENV)/release.stamp
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python -m twine check --strict dist/*
	sh tests/installed.sh dist/*.whl $(abspath $(BIN))/python $(PYTHONS)

clean:
	rm -rf $(VENV) $(ENGINES) $(LOWEST) build/site dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "evenload needs Python >= 3.11: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'

$(VENV)/demo.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) --editable '.[plot]'
	touch $@

$(VENV)/dev.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) --editable '.[plot,report,torch]' --group dev
	touch $@ $(VENV)/demo.stamp

$(VENV)/release.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) --group release
	touch $@

$(LOWEST)/$(LOWEST_OF).stamp:
	rm -rf $(LOWEST)
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check $$($(PYTHON) tests/lowest.py)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

$(VENV)/docs.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) --editable . --group docs
	touch $@

# Nothing of the engines is skipped where it cannot be had: pip fails, and make with it. vLLM's source distribution holds the unit
# tests that it publishes; only its metadata is built (the variables are what its build wants to hear on a machine without CUDA).
$(ENGINES_STAMP): $(if $(wildcard $(ENGINES_STAMP)),,engines-environment)
	touch $@

.PHONY: engines-environment
engines-environment:
	rm -rf $(ENGINES)
	$(PYTHON) -m venv $(ENGINES)
	$(ENGINES_PIP) --requirement tests/engines/requirements.txt --constraint constraints.txt
	$(ENGINES_PIP) --requirement tests/engines/wheels.txt
	VLLM_TARGET_DEVICE=empty VLLM_VERSION_OVERRIDE=0.33.0 $(ENGINES)/bin/python -m pip download --quiet --disable-pip-version-check \
	  --no-deps --no-build-isolation --no-binary :all: --dest $(ENGINES)/published vllm==0.33.0
	cd $(ENGINES)/published && tar -xzf vllm-0.33.0.tar.gz --strip-components=3 \
	  vllm-0.33.0/tests/distributed/test_eplb_algo.py vllm-0.33.0/tests/distributed/test_eplb_migration_scheduler.py
	rm $(ENGINES)/published/vllm-0.33.0.tar.gz
