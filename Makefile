# make demo   set up, then a synthetic sky through inference and products to a figure
# make test   set up, then lint, types and tests
# make docs   set up, then the documentation site, in docs/_build/html
# They do all the set-up themselves; they need python3 (3.11 or newer), make and gcc.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Extras that the demo and the tests use; `make setup EXTRAS=all` installs the others, too.
EXTRAS ?= cluster,dashboards,export,fast,inference
# As many processes run the tests as there are cores, four at most; 0 for one without pytest-xdist.
TEST_PROCESSES ?= auto
PYTEST = $(BIN)/python -m pytest -n $(TEST_PROCESSES) --maxprocesses 4 --dist loadfile

.PHONY: demo test lint types pytest slow bench docs setup clean

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
	$(PYTEST) $(PYTEST_ARGS)

slow: $(VENV)/.installed-test
	$(PYTEST) --slow $(PYTEST_ARGS)

bench: $(VENV)/.installed-test
	$(BIN)/python benchmarks/regrid.py
	$(BIN)/python benchmarks/recipe.py
	$(BIN)/python benchmarks/inference.py

docs: $(VENV)/.installed-docs
	$(BIN)/sphinx-build --fail-on-warning --keep-going --builder html --jobs auto docs docs/_build/html

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

$(VENV)/.installed-docs: $(VENV)/.installed pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group docs
	touch $@

clean:
	rm -rf $(VENV) demo docs/_build
