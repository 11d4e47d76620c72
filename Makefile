# make demo   set up, then a synthetic sky through inference and products to a figure
# make test   set up, then lint, types and tests
# Both do all the set-up themselves; they need python3 (3.11 or newer), make and gcc.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Extras that the demo and the tests use; `make setup EXTRAS=all` installs the others, too.
EXTRAS ?= cluster,dashboards,fast,inference

.PHONY: demo test lint types pytest slow bench setup clean

demo: $(VENV)/.installed
	$(BIN)/crdist demo demo

test: lint types pytest

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

types: $(VENV)/.installed-test
	$(BIN)/mypy

pytest: $(VENV)/.installed-test
	$(BIN)/python -m pytest $(PYTEST_ARGS)

slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest --slow $(PYTEST_ARGS)

bench: $(VENV)/.installed-test
	$(BIN)/python benchmarks/regrid.py
	$(BIN)/python benchmarks/recipe.py
	$(BIN)/python benchmarks/inference.py

setup: $(VENV)/.installed-test

$(VENV)/.created:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "crdist needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group test
	touch $@

clean:
	rm -rf $(VENV) demo
