# Needs make and Python 3.11 or newer with venv; everything else goes into .venv, at the versions of constraints.txt.
#   make demo    two small models are trained, one is disguised, all are compared, a report is written
#   make test    the test suite without its slow tests        make test-all   with them
#   make lint    ruff, mypy, import-linter                    make check      lint, then test
#   make museum  small re-enactments of public disputes, each with its page, in build/museum
#   make bench   the benchmarks behind benchmarks/*.md        make clean      removes what the targets above have made

PYTHON ?= python3
BIN    := .venv/bin
STAMP  := .venv/.installed
WORKERS ?= 2

# One thread per worker: two cores are shared by WORKERS test processes, and results must not depend on the number of threads.
TEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

.PHONY: demo test test-all lint format check museum bench clean
.DEFAULT_GOAL := check

demo: $(STAMP)
	@$(BIN)/pedigree demo

test: $(STAMP)
	@$(TEST) -m "not slow"

test-all: $(STAMP)
	@$(TEST)

lint: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo --no-cache

format: $(STAMP)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

check: lint test

museum: $(STAMP)
	@OMP_NUM_THREADS=1 $(BIN)/python recipes/museum/museum.py build/museum

bench: $(STAMP)
	@for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

clean:
	rm -rf .venv .demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .benchmarks
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $(PYTHON) is $$($(PYTHON) --version 2>&1), Pedigree needs Python 3.11 or newer; name one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	@echo "Building .venv with the versions of constraints.txt; this takes a few minutes, once." >&2
	@$(PYTHON) -m venv .venv || { echo "error: $(PYTHON) -m venv failed; on Debian and Ubuntu: apt install python3-venv" >&2; exit 2; }
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[hf,library,web,team,dev]'
	@touch $@
