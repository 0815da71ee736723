# make demo, make test and make check-all set up all they need on a machine that has Python 3.11 or newer alone.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
TORCH := 2.13.0
NATTEN := 0.21.7
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: demo test check-all lint clean

demo: $(VENV)/.demo
	$(BIN)/python -m tilec demo

test: lint $(VENV)/.torch
	$(BIN)/python -m pytest -q -n 2

check-all: lint $(VENV)/.natten
	TILEC_TEST_PROFILE=all $(BIN)/python -m pytest -q -n 2

lint: $(VENV)/.dev
	$(BIN)/ruff check .

# A stamp is newer than pyproject.toml when what it names is installed.
$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(PIP) -e '.[demo]'
	touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(PIP) -e '.[dev]'
	touch $@ $(VENV)/.demo

# Tests of tilec.torch need torch, tilec does not. On Linux a build for the CPU alone, without gigabytes of CUDA.
$(VENV)/.torch: $(VENV)/.dev
	@$(BIN)/python -c 'import torch' 2>/dev/null \
		|| $(PIP) 'torch==$(TORCH)+cpu' 2>/dev/null \
		|| { [ "$$(uname)" != Linux ] && $(PIP) 'torch==$(TORCH)' 2>/dev/null; } \
		|| echo 'No build of torch $(TORCH) for the CPU is to be had here: tests of tilec.torch will be skipped.'
	@touch $@

# The masks of neighborhood attention are NATTEN's, bit by bit: with torch it runs without a GPU too.
$(VENV)/.natten: $(VENV)/.torch
	@$(PIP) --no-deps 'natten==$(NATTEN)' 2>/dev/null \
		|| echo 'No NATTEN $(NATTEN) is to be had here: tests beside it will be skipped.'
	@touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
