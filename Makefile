# `make` lists the targets. Everything runs in .venv, which is made on first use.
PYTHON  ?= python3
PROFILE ?= quick
DATASET ?= auto
WORKERS ?= 2
PORT    ?= 8000

BIN   := .venv/bin
READY := .venv/.ready
SITE  := _build/html

PROFILES := $(basename $(notdir $(wildcard book/profiles/*.yml)))

.DEFAULT_GOAL := help
.PHONY: help install book check pdf serve test bench lint format lock clean distclean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo
	@printf '  %-20s %s\n' \
		'PROFILE=$(PROFILE)' 'how much the chapters compute: $(PROFILES)' \
		'DATASET=$(DATASET)' 'auto, ml-1m, ml-100k or simulated' \
		'DNR_DATA_DIR=DIR' 'where data that is at hand already lies' \
		'PYTHON=$(PYTHON)' 'the interpreter that makes .venv (3.10 or newer)'

install: $(READY)  ## make .venv with the versions of constraints.txt

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "dnrlib needs Python 3.10 or newer: make PYTHON=python3.12 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing into .venv (some minutes, once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[book,browser,dev]'
	@touch $@

book: $(READY)  ## execute the chapters and render the site
	@$(BIN)/dnr book --profile '$(PROFILE)' --dataset '$(DATASET)'

pdf: $(READY)  ## print the rendered site as one PDF (needs Chromium)
	@$(BIN)/dnr pdf

check: $(READY)  ## open every page of the rendered site in Chromium, and name its faults
	@$(BIN)/python -m dnrlib.book.browser $(SITE)

serve: $(READY)  ## serve the rendered site on this machine
	@test -d $(SITE) || { echo "There is no site yet: run make book first." >&2; exit 1; }
	@$(BIN)/python -m http.server $(PORT) --bind 127.0.0.1 --directory $(SITE)

test: $(READY)  ## run the tests
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

bench: $(READY)  ## measure speed and memory (half an hour, on a quiet machine); GROUPS=training for one
	@$(BIN)/python -m benchmarks $(GROUPS)

lint: $(READY)  ## check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(READY)  ## put the code into the common style
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

lock: $(READY)  ## renew constraints.txt (the release of torch stays)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@grep '^torch==' constraints.txt | UV_CUSTOM_COMPILE_COMMAND='make lock' $(BIN)/uv pip compile --quiet \
		--universal --python-version 3.10 --upgrade --no-annotate --extra book --extra browser --extra dev \
		--constraint - --output-file constraints.txt pyproject.toml

clean:  ## remove what was built or prepared
	@rm -rf _build data/prepared .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find dnrlib tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean  ## also remove .venv
	@rm -rf .venv
