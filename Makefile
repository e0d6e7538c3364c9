# make demo                          installs on first use, then trains four synthetic hospitals together
# make test PYTHON=python3.12        another interpreter for the environment
# NO_INSTALL=1 make test VENV=/path  an environment that already holds everything

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(if $(NO_INSTALL),,$(VENV)/.installed)

# Two processes of one thread each are faster than one of two threads, and every test of a thread count says so itself.
FEDERATIONS ?= 3
TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto

.PHONY: demo test slow check bench faults attacks sbom clean

demo: $(INSTALLED)
	$(BIN)/consilium-center demo --out runs/demo

test: $(INSTALLED)
	$(TESTS) -m "not benchmark and not slow"

slow: $(INSTALLED)
	$(TESTS) -m "slow and not faults"

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(INSTALLED)
	$(BIN)/python -m pytest -m benchmark -s

# Several federations side by side, which mostly wait. The table in README.md is written anew.
faults: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m faults --numprocesses $(FEDERATIONS) --dist worksteal -p tests.faults.table --fault-table README.md

attacks: $(INSTALLED)
	$(BIN)/python -m pytest -m attacks

sbom: $(INSTALLED)
	$(BIN)/python docker/materials.py sbom

$(VENV)/.installed: pyproject.toml .ci/constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=/path/to/python")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c .ci/constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv sbom build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
