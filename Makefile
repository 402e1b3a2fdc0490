# Everything happens in .venv; nothing is installed outside it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Installed again only when the list of dependencies changes.
STAMP := $(VENV)/.installed

.PHONY: help install demo docs test test-slow lint clean

help:
	@echo "make demo       toy worlds, pretraining, probes, and the reports of an unseen film and of a real video"
	@echo "                in about seven minutes on two cores; VIDEO=FILE takes a video of yours"
	@echo "make test       linters, types, import rules and the fast tests"
	@echo "make test-slow  the tests that take longer: kills, many processes"
	@echo "make docs       the documentation site, into site/"
	@echo "make lint       linters, types and import rules alone"

install: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "jepa needs Python 3.10 or newer; name one with make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (a few minutes the first time) ..."
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --upgrade pip
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '.[all,dev]'
	@touch $@

demo: $(STAMP)
	@$(BIN)/python scripts/demo.py $(if $(VIDEO),--video "$(VIDEO)")

docs: $(STAMP)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '.[docs]'
	@$(BIN)/mkdocs build --quiet
	@echo "Open site/index.html."

lint: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache | tail -n 3

# One thread per test process: two processes with two OpenMP threads each slow one another tenfold.
test: lint
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 -m "not slow and not dist and not gpu and not parity"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --doctest-modules jepa
	@echo
	@echo "All tests passed. Next: 'make demo' trains and probes an encoder; 'make test-slow' runs the longer tests."

test-slow: $(STAMP)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 -m "(slow or dist) and not gpu and not parity"

clean:
	rm -rf $(VENV) demo site .pytest_cache .mypy_cache .ruff_cache
