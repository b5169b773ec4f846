# The front door. `make` lists what there is; every setting of the tools is in pyproject.toml.

VENV := .venv
PYTHON ?= $(shell tools/find-python)
BIN := $(VENV)/bin
SOURCES := $(shell find src -type f -not -name '*.pyc' -not -path '*.egg-info/*') pyproject.toml setup.py
PYTEST := $(BIN)/python -m pytest
ARGS ?=

# Installed modules are compiled once: a container's start must not wait for the compiler.
unexport PYTHONDONTWRITEBYTECODE
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help run install check lint unit test test-root e2e security prove-security conformance test-uml test-vm crash power-cut bench docs packages clean stress

help: ## List what there is
	@echo "wherry: a container engine. Targets (ARGS=… goes on to pytest or to the benchmark):"
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|'

run: $(VENV)/.installed ## Install wherry into .venv, start the engine if none runs, run hello-world (as root)
	@tools/run-hello $(BIN)

install: $(VENV)/.installed ## Install wherry into .venv (not editable: modules are compiled)

check: lint unit ## Format, lint, types, layers, unit tests; needs no root

lint: $(VENV)/.tools
	$(BIN)/ruff format --check src tests bench
	$(BIN)/ruff check src tests bench
	$(BIN)/mypy
	PYTHONPATH=src $(BIN)/lint-imports

unit: $(VENV)/.tools
	$(PYTEST) -q tests/unit tests/contract $(ARGS)

test: packages lint $(VENV)/.installed ## Everything: check, contract, root, e2e, security (as root)
	tools/run-tests $(BIN) $(ARGS)

test-root: packages $(VENV)/.installed $(VENV)/.tools ## Tests on the real kernel (as root)
	$(PYTEST) tests/root $(ARGS)

e2e: packages $(VENV)/.installed $(VENV)/.tools ## The real docker CLI against wherryd; WHERRY_E2E_PEER=dockerd: against dockerd
	$(PYTEST) tests/e2e $(ARGS)

security: packages $(VENV)/.installed $(VENV)/.tools ## The attacks of THREAT_MODEL.md, tried (as root)
	$(PYTEST) tests/security $(ARGS)

prove-security: packages $(VENV)/.tools ## That the attacks have teeth: each defence of tests/security/defences.py taken out of a copy (as root; minutes); ARGS="WORD…"
	$(BIN)/python -m tests.security.prove $(ARGS)

conformance: packages $(VENV)/.installed $(VENV)/.tools ## Real clients and runtimes; with CONFORMANCE_SUITES=folder also each folder/*/run there
	@tools/run-suites $(BIN) "$(CONFORMANCE_SUITES)"
	@tools/run-registry-suites $(BIN) "$(CONFORMANCE_SUITES)"
	$(PYTEST) tests/conformance tests/e2e/test_docker_py.py $(ARGS)

stress: packages $(VENV)/.installed $(VENV)/.tools ## The store under 20 clients that pull, run, commit, remove and prune for minutes (SECONDS=240; as root)
	WHERRY_STRESS_WORKERS=20 WHERRY_STRESS_SECONDS=$(or $(SECONDS),240) $(PYTEST) -s tests/e2e/test_store_under_load.py $(ARGS)

test-uml: $(VENV)/.installed $(VENV)/.tools ## The cgroup v2 tests in a user-mode Linux, where this machine has v1 (package user-mode-linux; as root)
	PYTHON=$(BIN)/python tests/uml/run $(ARGS)

test-vm: $(VENV)/.installed $(VENV)/.tools ## Checkpoint and restore on Debian's kernel, emulated (qemu-system-x86, linux-image-cloud-amd64; as root)
	PYTHON=$(BIN)/python tests/vm/run $(ARGS)

crash: packages $(VENV)/.installed $(VENV)/.tools ## kill -9 of the engine, and a failing disk, at every change of its state (as root; about an hour)
	WHERRY_CRASH_EVERY=1 $(PYTEST) -s --timeout=0 tests/e2e/test_crash.py $(ARGS)

power-cut: packages $(VENV)/.installed $(VENV)/.tools ## Cut the power of a user-mode Linux 100 times, look at its disk (as root; about 25 minutes); ARGS="CUTS OPERATION…"
	$(BIN)/python -m tests.crash.power_cut $(ARGS)

bench: packages $(VENV)/.installed ## Benchmarks beside dockerd and runc; writes docs/benchmarks.md
	$(BIN)/python -m bench $(ARGS)

docs: $(VENV)/.tools ## Check that the documents' links lead somewhere
	$(BIN)/python tools/check_links.py

packages: ## Install the Debian packages that tests need (packages.txt), announced
	@tools/install-packages packages.txt

clean: ## Remove what make made
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} + ; find src -name '*.egg-info' -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@test -n "$(PYTHON)"
	tools/make-venv "$(PYTHON)" $(VENV)

$(VENV)/.dependencies: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install -q .
	@touch $@

$(VENV)/.installed: $(SOURCES) $(VENV)/.dependencies
	@rm -rf build
	$(BIN)/python -m pip install -q --no-build-isolation --no-deps --force-reinstall .
	@touch $@

$(VENV)/.tools: $(VENV)/.dependencies
	$(BIN)/python -m pip install -q $$($(BIN)/python tools/extras.py test check)
	@touch $@
