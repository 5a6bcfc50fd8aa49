# Everything a fresh machine needs. The first target that is asked for makes .venv from constraints.txt; after that nothing is set up twice.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check
# PyPI's PyTorch for Linux brings gigabytes of CUDA. Without an NVIDIA GPU its CPU build is tried, unless pip is told to look elsewhere.
CPU_BUILDS := https://download.pytorch.org/whl/cpu
WANTS_CPU_BUILD = [ "$$(uname)" = Linux ] && ! command -v nvidia-smi >/dev/null && ! $(PIP) config list | grep -qE "index|find-links"
# Tests run one process per core, so each process computes with one thread.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
WORKERS ?= auto

.PHONY: demo test test-all lint format bench docs setup clean

demo: $(STAMP)
	$(BIN)/sat demo

test: $(STAMP)
	$(PYTEST) -m "not slow" -n $(WORKERS)

test-all: $(STAMP)
	$(PYTEST) -n $(WORKERS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# bench/data.py measures with real audio, which is not part of the project; bench/gan.py takes 45 minutes and is run by hand.
AUDIO ?= $(or $(SAT_SHARED),../shared)/data
bench: $(STAMP)
	for script in bench/check.py bench/layers.py bench/lm.py bench/models.py bench/train.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done
	if test -d $(AUDIO)/real-music; then $(BIN)/python bench/data.py $(AUDIO)/real-music $(AUDIO)/real-oneshots; else echo "bench/data.py is left out: no $(AUDIO)"; fi

docs: $(STAMP)
	$(BIN)/python docs/generate.py

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	if $(WANTS_CPU_BUILD); then $(PIP) install -q --retries 1 --no-deps -c constraints.txt --index-url $(CPU_BUILDS) torch || true; fi
	$(PIP) install -q -c constraints.txt torch
	$(PIP) install -q -c constraints.txt -e ".[dev]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
