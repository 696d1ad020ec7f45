# Endcap's commands; `make` alone lists them. ARGS="..." is handed to the program behind demo, test, test-slow, lock, bench.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.NOTPARALLEL:
# Each command starts processes that import thousands of modules; compiled anew by each of them, they take longer than the work.
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
STAMPS := .venv/.stamps
INSTALLS := pyproject.toml requirements.lock scripts/setup.sh scripts/protos.py $(wildcard src/endcap/serving/protos/*.proto)
# Tests run side by side: of more threads each, those that wait for others spin. One more at once than there are cores, for
# some wait for a server or a disk.
NUM_TESTS_AT_ONCE := $(shell echo $$(( $$(nproc) < 4 ? $$(nproc) + 1 : 4 )))
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
CLIENTS := .venv-clients/.installed
PEERS := $(patsubst benchmarks/peers/%/requirements.txt,.venv-peers/%/.installed,$(wildcard benchmarks/peers/*/requirements.txt))

# A checkout that was moved has a .venv whose commands name the old place: install anew.
ifneq ($(shell cat $(STAMPS)/home 2>/dev/null),$(CURDIR))
INSTALLS += moved
endif

.PHONY: help setup demo test test-slow lint fix bench bench-peers clients docs lock moved

help: ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMPS)/train ## Make .venv with the project and training; installs missing system packages
	@echo 'Ready: make demo, or .venv/bin/endcap --help'

demo: $(STAMPS)/train ## From a real shop's purchases to served recommendations, in ./demo
	$(BIN)/endcap demo $(ARGS)

test: $(STAMPS)/dev $(CLIENTS) ## Run the tests, but for the slow ones, side by side (ARGS="-n 0 tests/ingest": some, one by one)
	@scripts/system-packages.sh chromium
	$(ONE_THREAD) $(BIN)/python -m pytest -m "not slow" --numprocesses $(NUM_TESTS_AT_ONCE) --dist worksteal $(ARGS)

test-slow: $(STAMPS)/dev ## Run the slow tests alone: soak, kill loops, whole processes, benchmarks
	@scripts/system-packages.sh chromium
	$(BIN)/python -m pytest -m slow $(ARGS)

lint: $(STAMPS)/dev ## Check format, style, types, layers, the docs' links and the use of locations
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python scripts/check_docs.py
	$(BIN)/python scripts/check_locations.py

fix: $(STAMPS)/dev ## Format the code and mend what can be mended by itself
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: $(STAMPS)/dev bench-peers ## Measure serving, data and training beside their peers (ARGS=--quick: roughly); figures go to build/bench
	@mkdir -p build/bench
	$(BIN)/python -m benchmarks.performance.serving --peer tensorflow --json build/bench/serving.json $(ARGS)
	$(BIN)/python -m benchmarks.performance.data --json build/bench/data.json $(ARGS)
	$(BIN)/python -m benchmarks.performance.training --json build/bench/training.json $(ARGS)

bench-peers: $(PEERS) ## Make an environment for each peer in .venv-peers
	@scripts/system-packages.sh wrk
	@echo 'Peers at hand: $(notdir $(patsubst %/.installed,%,$(PEERS)))'

clients: $(CLIENTS) ## Make .venv-clients with the stock clients that tests run: TensorFlow Serving's stub, tritonclient

docs: $(STAMPS)/docs ## Build the documentation into site, strictly
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir site

# Not by way of a set-up where there is one: that would be given the very lock that no longer fits pyproject.toml.
lock: $(if $(wildcard .venv/bin/pip-compile),,$(STAMPS)/dev) ## Write requirements.lock; ARGS=--upgrade takes the newest versions
	@scripts/lock.sh $(ARGS)

$(STAMPS)/%: $(INSTALLS)
	@scripts/setup.sh $*

.venv-peers/%/.installed: benchmarks/peers/%/requirements.txt scripts/peer.sh
	@scripts/peer.sh $*

.venv-clients/.installed: $(wildcard tests/clients/requirements*.txt) scripts/clients.sh
	@scripts/clients.sh
