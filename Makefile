# make demo: the main job, from nothing.  make test: the tests.  make check: what CI checks besides.
# make simulate: ten thousand schedules of faults, each to end in the same weights.
# make chaos: a hundred runs with kills at random moments, each to end in the same weights.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= runs/demo
SEEDS ?= 0:10000

.PHONY: demo test check lint types notebooks bench simulate chaos clean

$(VENV)/.ready: pyproject.toml hatch_build.py
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable ".[dashboard,hdf5,images,netcdf]" --group dev
	touch $@

demo: $(VENV)/.ready
	rm -rf $(DEMO)
	$(BIN)/deepstrata run dbn-digits --out $(DEMO)

test: $(VENV)/.ready
	$(BIN)/python -m pytest tests -m "not benchmark and not network" --numprocesses=3 --dist=loadfile

check: lint types

notebooks: $(VENV)/.ready
	$(BIN)/python -m pytest --nbmake --nbmake-timeout=300 notebooks
	$(BIN)/nbstripout --verify notebooks/*.ipynb

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/codespell --skip .venv,.pkg,.git,runs

types: $(VENV)/.ready
	MYPYPATH=.pkg $(BIN)/mypy -p deepstrata

bench: $(VENV)/.ready
	$(BIN)/python -m tests.benchmarks

simulate: $(VENV)/.ready
	$(BIN)/python -m tests.simulation --seeds $(SEEDS) --jobs 2

chaos: $(VENV)/.ready
	$(BIN)/python -m tests.chaos --runs 100 --seed 0

clean:
	rm -rf $(VENV) .pkg runs build dist
