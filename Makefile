# Everything runs from a virtual environment in .venv that the first target which needs it makes.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --no-compile --quiet --disable-pip-version-check -c constraints.txt
# Now, as every command would do it again where the environment lets Python keep nothing. pip would
# compile all on one core. Of some packages little is imported, and nothing of their tests; some
# modules are for other versions of Python, and fail.
SELDOM  := tests?|diffusers|fontTools|mypy|mypyc|pip|plotly|ray|selenium|setuptools|transformers
COMPILE := $(BIN)/python -m compileall -qq -j 0 -x '/($(SELDOM))/' $(VENV)/lib || :
# What Python compiles of the project is kept, too, whatever the environment says.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test long browser par2 lint format docs bench fuzz clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.demo ## protect a small network, damage it, repair it
	@$(BIN)/parimend demo

test: $(VENV)/.ready ## run the tests
	@$(BIN)/python -m pytest -n 2 --dist worksteal -q -m "not browser and not par2 and not long"

long: $(VENV)/.ready ## run the tests that take long: more kills, draws, devices and processes
	@$(BIN)/python -m pytest -n 2 --dist worksteal -q -m long

browser: $(VENV)/.ready ## open pages of reports in chromium (Debian: chromium, chromium-driver)
	@$(BIN)/python -m pytest -q -m browser tests/report

par2: $(VENV)/.ready ## run the tests that need the program par2 (Debian: par2)
	@$(BIN)/python -m pytest -q -m par2 tests/campaign

lint: $(VENV)/.ready ## check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

format: $(VENV)/.ready ## rewrite the sources in the project's style
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

docs: $(VENV)/.ready ## build the documentation into docs/_build
	@$(BIN)/sphinx-build -W --keep-going -q docs docs/_build/html
	@echo "docs/_build/html/index.html"

bench: $(VENV)/.ready ## measure the decoders
	@$(BIN)/python benchmarks/decoding.py

SEED    ?= 1
MINUTES ?= 1
INPUTS  ?= 1000000000
JOBS    ?= 2

fuzz: $(VENV)/.ready ## feed the parsers damaged and senseless files (SEED, MINUTES, INPUTS, JOBS)
	@$(BIN)/python scripts/fuzz.py --seed $(SEED) --minutes $(MINUTES) --inputs $(INPUTS) --jobs $(JOBS)

clean: ## remove caches and built files (not .venv)
	rm -rf build dist docs/_build .hypothesis .mypy_cache .pytest_cache .ruff_cache .benchmarks
	find . -path ./$(VENV) -prune -o \( -name __pycache__ -o -name '*.nb[ic]' \) -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Parimend needs Python 3.11 or newer (make PYTHON=...)"; exit 1; }
	@echo "making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
	@$(PIP) --upgrade pip

# The demo needs no developer's tools, so a user gets it with half of the installation.
$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing Parimend (a few minutes the first time: PyTorch is large)"
	@$(PIP) -e '.[demo]'
	@$(COMPILE)
	@touch $@

$(VENV)/.ready: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing Parimend and the developer's tools (a few minutes the first time: PyTorch is large)"
	@$(PIP) -e '.[demo,serve,recipes,lightning,transformers,dev]'
	@$(PIP) --no-deps mrfi
	@$(COMPILE)
	@touch $(VENV)/.demo $@
