# make run   : sets up, builds the sample corpus, runs stages.yaml, writes the report
# make test  : sets up, runs all tests
# make bench : the benchmarks (minutes; needs the shared corpus, see benchmarks/README.md)
# make lint  : ruff and mypy
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: run test bench lint clean-run clean

run: $(READY)
	$(BIN)/tamis sample sample
	$(BIN)/tamis run stages.yaml
	$(BIN)/tamis report runs/first

test: $(READY)
	$(BIN)/python -m pytest

bench: $(READY)
	$(BIN)/python benchmarks/run.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# kronfluence, for a parity test, asks for torchvision, which it never imports and which is built for one torch alone.
# The virtual environment is complete when READY is newer than what it was made from.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps kronfluence
	touch $(READY)

clean-run:
	rm -rf runs/first

clean: clean-run
	rm -rf sample $(VENV)
