# `make demo` and `make test` are all a new user needs; both install what they use into .venv first.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input -q
CONFIG ?= configs/workflows/demo.yaml

.PHONY: demo test test-slow chaos lint types check bench-curation bench-training bench-learning clean

demo: .venv/.runtime
	$(BIN)/illada run $(CONFIG)

test: .venv/.dev
	$(BIN)/python -m pytest

test-slow: .venv/.dev
	$(BIN)/python -m pytest -m "slow or faults"

chaos: .venv/.dev
	$(BIN)/python -m pytest -m chaos

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: .venv/.dev
	$(BIN)/mypy

check: lint types test

# stock datatrove and ours on the same pages and documents; GROUND_TRUTH is a folder for benchmarks/extraction.py
bench-curation: .venv/.bench
	$(BIN)/python benchmarks/curation.py --out out/bench $(if $(GROUND_TRUTH),--ground-truth $(GROUND_TRUTH))

# ours against the published loss loop and, with DLLM=FOLDER (a checkout), dllm's trainer; JSON under out/bench/
bench-training: .venv/.runtime
	$(BIN)/python benchmarks/training.py $(if $(DLLM),--dllm $(DLLM))

# both objectives and fine-tuning on pages (WARC, a quoted glob) and conversations (CHAT, JSON lines); half an hour
bench-learning: .venv/.runtime
	$(BIN)/python benchmarks/learning.py --warc $(WARC) --conversations $(CHAT) --to out/bench/learning.json

clean:
	rm -rf .venv out

# Bytecode is compiled on first import instead of for every file of every package: a third of the installation time.
.venv/.runtime: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
		{ echo "Python 3.11 is needed (found $$($(PYTHON) --version 2>&1)); run: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "installing into .venv (once, about two minutes) ..."
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) install --no-compile -c constraints.txt -e .
	@touch $@

.venv/.dev: .venv/.runtime
	$(PIP) install --no-compile -c constraints.txt -e ".[dev]"
	@touch $@

.venv/.bench: .venv/.dev
	$(PIP) install --no-compile -c constraints.txt -e ".[dev,bench]"
	@touch $@
