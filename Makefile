# Every target does its own set-up: a machine with Python 3.11, git and make is enough.
# A uv on PATH is used when it works; otherwise one is installed into .tools/, and nothing outside
# this directory (and uv's cache) is touched. `make` without a target lists the targets.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

PYTHON ?= python3
TOOLS := .tools
ARGS ?=
BENCH ?= throughput

ifeq ($(origin UV),undefined)
UV := $(shell uv --version >/dev/null 2>&1 && command -v uv || echo $(TOOLS)/bin/uv)
endif
UV_RUN := $(UV) run --no-sync
# `flwr run` makes an environment with the uv that is locked. Another version keeps its cache elsewhere,
# and would fetch everything a second time.
UV_VERSION := $(shell awk '/^name = "uv"$$/ {getline; gsub(/[^0-9.]/, ""); print}' uv.lock)

# Where an environment forbids Python to write bytecode, each process compiles torch and the other
# libraries again: 13 s instead of 3 s to import fedsplit. The tests start about a hundred.
export PYTHONDONTWRITEBYTECODE :=
# MkDocs 2 is another program under the same name; ours is pinned below it.
export NO_MKDOCS_2_WARNING := 1

.PHONY: help announce setup run test lint format typecheck bench test-packages notebooks docs docs-serve hooks clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# How much it is follows from uv.lock; tests/test_makefile.py holds these figures to it.
announce:
	@[ -d .venv ] || echo "This fetches about 3.4 GB from PyPI into uv's cache, once (3.0 GB of it are torch and its" \
	    "CUDA libraries, which torch asks for on machines without a GPU too). It takes 6.9 GB of disk."

run: announce setup ## the main job: ten clients train a split ViT through `flwr run` (ARGS="..." adds options)
	$(UV_RUN) fedsplit run . --num-clients 10 $(ARGS)

# Types are checked beside the tests, and shown after them. Four processes for two cores: those that
# start Flower, or break a network, wait half of their time.
test: lint ## everything that must pass: lint, types, all tests (ARGS="...": only pytest with these)
	@types=$$(mktemp); checked=; trap 'kill $$checked 2>/dev/null || true; rm -f "$$types"' EXIT; \
	$(UV_RUN) mypy >"$$types" 2>&1 & checked=$$!; \
	failed=0; \
	$(UV_RUN) pytest $(or $(ARGS),-n 4 --dist loadfile --no-loadscope-reorder) || failed=$$?; \
	wait $$checked || failed=$$?; checked=; \
	echo "mypy:"; cat "$$types"; \
	exit $$failed

lint: setup ## ruff's checks and formatting, without changing a file
	$(UV_RUN) ruff check .
	$(UV_RUN) ruff format --check .

typecheck: setup ## mypy, strict
	$(UV_RUN) mypy

format: setup ## apply ruff's fixes and formatting
	$(UV_RUN) ruff check --fix .
	$(UV_RUN) ruff format .

bench: setup ## measure training throughput against a plain loop (BENCH=overhead: that of a whole run)
	$(UV_RUN) python -m benchmarks.$(BENCH) $(ARGS)

test-packages: ## install the Debian packages without which tests are skipped: Chromium, Fashion-MNIST (as root)
	@{ command -v chromium chromium-browser google-chrome >/dev/null && \
	    [ -d /usr/share/datasets/fashion-mnist ]; } || { \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -yqq \
	        chromium fonts-dejavu-core dataset-fashion-mnist >/dev/null; }

notebooks: setup ## execute the notebooks, and keep their outputs
	$(UV_RUN) python -m notebooks.execute $(ARGS)

# Not --quiet: it would hide the warnings from --strict too.
docs: setup ## build the documentation site into site/; any broken link fails
	$(UV_RUN) mkdocs build --strict
	@echo "Open site/index.html, or 'make docs-serve' (with search)."

docs-serve: setup ## show the site at http://127.0.0.1:8000 while you write
	$(UV_RUN) mkdocs serve

hooks: setup ## run the pre-commit hooks at every commit
	$(UV_RUN) pre-commit install

setup: | $(filter $(TOOLS)/%,$(UV)) ## the locked environment in .venv
	@$(UV) sync --frozen --quiet --group dev --group docs

clean: ## remove the environment, the tools and all caches
	rm -rf .venv $(TOOLS) .mypy_cache .ruff_cache .pytest_cache .hypothesis site

# A Python without `venv` (Debian splits it off) often has pip, and one without pip has venv. Neither
# way counts as installing into the system, so an externally managed Python allows both.
$(TOOLS)/bin/uv:
	@echo "Installing uv $(UV_VERSION) into $(TOOLS)/"
	@rm -rf $(TOOLS)
	@if $(PYTHON) -m venv $(TOOLS) >/dev/null 2>&1; then \
	    $(TOOLS)/bin/python -m pip install --quiet uv==$(UV_VERSION); \
	elif $(PYTHON) -m pip --version >/dev/null 2>&1; then \
	    rm -rf $(TOOLS) && $(PYTHON) -m pip install --quiet --target $(TOOLS) uv==$(UV_VERSION); \
	else \
	    echo "$(PYTHON) has neither venv nor pip, so uv cannot be installed. Install one of them" \
	        "(on Debian or Ubuntu: apt-get install python3-venv), or uv itself, and try again." >&2; \
	    exit 1; \
	fi
	@echo '*' > $(TOOLS)/.gitignore
