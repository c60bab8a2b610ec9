# What people and other programs call. Every target makes what it needs first.
SHELL := bash
PYTHON ?= python3
BIN := .venv/bin
COMPILE := $(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header
# One thread for each process: the tests start several, and oversubscribed cores are an order of magnitude slower.
export OMP_NUM_THREADS ?= 1
# Where Python may keep no compiled modules, each of the tests' hundreds of processes reads all of torch's source anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo up test test-unit test-farms test-faults test-fuzz test-load openapi check bench bench-sound bench-render bench-farm gallery listen lock clean

help:            ## Show what there is
	@grep -E '^[a-z-]+: .*##|^[a-z-]+:  +##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: .venv/.installed  ## Make .venv with everything, from the hashed lock

.venv/.installed: requirements.lock pyproject.toml
	@if command -v uv >/dev/null; then \
		uv venv --quiet --allow-existing --python $(PYTHON) .venv && \
		uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock && \
		uv pip install --quiet --python $(BIN)/python --no-deps --editable . ; \
	else \
		$(PYTHON) -m venv .venv && \
		$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements.lock && \
		$(BIN)/python -m pip install --quiet --no-deps --editable . ; \
	fi
	@touch $@

demo: setup      ## Render a 41 s track on a farm of its own, into out/
	$(BIN)/riffarm render "medium tempo jazz piano, swing drums" "medium tempo techno synth, four on the floor drums" \
		--duration 40.96s --seed 4 --seed 2 --format flac --format mp3 --output out/demo.flac

up: setup        ## Run a farm on this machine until Ctrl-C
	$(BIN)/riffarm up

test: setup      ## Check and run all tests but those that need a GPU
	@# Two at a time: the unit tests keep one core busy for minutes, the others mostly wait for their farms.
	$(MAKE) --no-print-directory --jobs=2 check test-unit test-farms

test-unit: setup
	@# Its report comes whole, not between the others' lines.
	@mkdir -p out; $(BIN)/python -m pytest tests/unit >out/unit.log 2>&1; ended=$$?; cat out/unit.log; exit $$ended

test-farms: setup
	$(BIN)/python -m pytest --ignore=tests/unit

test-faults: setup  ## Kill, freeze, cut off and fill every part of a farm: 200 random kills and more, ten minutes
	RIFFARM_FAULT_KILLS=200 $(BIN)/python -m pytest -m 'not gpu' tests/faults

test-fuzz: setup  ## Draw 20,000 requests from the OpenAPI document and send them to a live farm; a quarter of an hour
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz

openapi: setup   ## Write docs/openapi.json and docs/api.md anew from the code
	$(BIN)/python -m tests.contract

test-load: setup  ## Measure submits, reads and event streams against a bare route, two minutes (ARGS=--quick: ten seconds)
	$(BIN)/python -m tests.load $(ARGS)

check: setup     ## Style, types, the import rule, and locks in step with pyproject.toml
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@for extra in "--all-extras:requirements.lock" "--extra api:requirements-gateway.lock" "--extra worker:requirements-worker.lock"; do \
		lock=$${extra#*:}; cp $$lock .venv/$$lock && $(COMPILE) $${extra%%:*} --output-file .venv/$$lock && \
		cmp $$lock .venv/$$lock || { echo "$$lock is behind pyproject.toml; run: make lock"; exit 1; }; \
	done

bench: setup     ## Measure the farm on this machine
	$(BIN)/python -m tests.benchmarks.track

bench-sound: setup  ## Measure sound against its baseline (ARGS="--audio FOLDER": on yours too; --quick)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks.sound $(ARGS)

bench-render: setup  ## Measure rendering against diffusers' stock pipelines, on a CPU and, where there is one, on CUDA
	@# In memory as a worker's process has it: workers/main.py.
	OMP_NUM_THREADS=1 MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=1073741824 \
		$(BIN)/python -m tests.benchmarks.render $(ARGS)

bench-farm: setup  ## Measure what the farm itself costs, with a model that costs nothing; five minutes (ARGS=--quick: one)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks.farm $(ARGS)

gallery: setup   ## Draw what each parameter does, into docs/rendering; four minutes, less when asked again
	OMP_NUM_THREADS=1 nice $(BIN)/python -m tests.benchmarks.gallery

listen: setup    ## Make a page to see and hear what the model learns from, in out/listen (ARGS="--model FOLDER": and the model)
	OMP_NUM_THREADS=1 nice $(BIN)/riffarm listen $(ARGS)

lock: setup      ## Make the locks anew from pyproject.toml
	$(COMPILE) --all-extras --output-file requirements.lock
	$(COMPILE) --extra api --output-file requirements-gateway.lock
	$(COMPILE) --extra worker --output-file requirements-worker.lock

clean:           ## Remove what was made here: .venv, out/, caches and the local farm's data
	rm -rf workers/__pycache__ .venv out .riffarm .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
