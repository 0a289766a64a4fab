# Every habit is a target; `make` alone lists them.
PYTHON ?= python3
VENV = .venv
BIN = $(VENV)/bin
# Only wheels whose hashes are listed, and nothing on standard output.
INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all:
PYTEST = $(BIN)/python -m pytest
PYTEST_ARGS ?=
BENCH_ARGS ?=
SHELL_SCRIPTS = .ci/run bin/angiovault $(wildcard scripts/* tests/dsm/stand_ins/*) $(shell find spk tests -name '*.sh')

.DEFAULT_GOAL := help
.PHONY: help run test test-unit lint docs bench bench-large bench-nas spk spk-check requirements clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/  make \1|\2/p' Makefile | while IFS='|' read -r t d; do printf '%-20s %s\n' "$$t" "$$d"; done

run: $(VENV)/.runtime  ## start the archive on 127.0.0.1:11112, storage in ./archive
	@exec $(BIN)/angiovault serve --storage ./archive --bind 127.0.0.1 --unknown-devices all

test: $(VENV)/.dev  ## run every test, installing the programs they need
	@sh tests/install-peers.sh
	@$(BIN)/python -m spk build
	@$(PYTEST) $(PYTEST_ARGS)

test-unit: $(VENV)/.dev  ## run the quick tests only: no servers, no other programs
	@$(PYTEST) -n auto -m "not slow and not mariadb and not root" $(PYTEST_ARGS) tests/unit

lint: $(VENV)/.dev  ## ruff, mypy and shellcheck
	@sh tests/install-peers.sh shellcheck
	$(BIN)/ruff check .
	$(BIN)/mypy
	shellcheck $(SHELL_SCRIPTS)

bench: $(VENV)/.dev  ## measure the archive beside Orthanc and dcmqrscp, in half an hour
	@sh tests/install-peers.sh
	@$(BIN)/python -m bench $(BENCH_ARGS)

bench-large: $(VENV)/.dev  ## measure it with 1,000,000 studies in its index, which are made once (25 GB, half an hour)
	@sh tests/install-peers.sh
	@$(BIN)/python -m bench.large $(BENCH_ARGS)

bench-nas: $(VENV)/.dev  ## measure what a small NAS would do: a quarter of a core, slow syncs; needs root
	@sh tests/install-peers.sh
	@$(BIN)/python -m bench.nas $(BENCH_ARGS)

spk: $(VENV)/.dev  ## build the packages for Synology DSM in dist/
	@$(BIN)/python -m spk build

spk-check: spk  ## prove that the packages in dist/ will install and run
	@$(BIN)/python -m spk check

docs: $(VENV)/.runtime  ## write the tables of the documentation anew
	@$(BIN)/python docs/tables.py

requirements: $(BIN)/python  ## write requirements/*.txt anew from pyproject.toml and requirements/*.in
	@set -e; tools=$$(mktemp -d); trap 'rm -rf "$$tools"' EXIT; \
	$(BIN)/python -m venv "$$tools" && "$$tools/bin/pip" install --quiet pip-tools==7.6.2; \
	compile() { CUSTOM_COMPILE_COMMAND="make requirements" "$$tools/bin/pip-compile" --quiet --upgrade --generate-hashes \
	    --strip-extras --allow-unsafe --no-emit-options --no-emit-index-url --no-emit-find-links "$$@"; }; \
	compile --constraint requirements/constraints.in --output-file requirements/runtime.txt pyproject.toml; \
	compile --output-file requirements/dev.txt requirements/dev.in; \
	compile --only-build-deps --build-deps-for editable --output-file requirements/build.txt pyproject.toml

clean:  ## remove the virtual environment and what the tools left; ./archive stays
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache src/*.egg-info
	find $(wildcard src spk tests bench) -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment is made once and made anew only when its Python no longer works (say, after a system upgrade).
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "AngioVault needs Python 3.11 or newer: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Python's venv module is missing: sudo apt-get install -y python3-venv" >&2; exit 1; }
	@echo "making the virtual environment $(VENV) ..." >&2
	@$(PYTHON) -m venv --clear $(VENV)

$(VENV)/.runtime: pyproject.toml requirements/build.txt requirements/runtime.txt | $(BIN)/python
	@echo "installing what AngioVault needs into $(VENV) ..." >&2
	@$(INSTALL) -r requirements/build.txt -r requirements/runtime.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.runtime
	@echo "installing what the tests need into $(VENV) ..." >&2
	@$(INSTALL) -r requirements/runtime.txt -r requirements/dev.txt
	@touch $@
