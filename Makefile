# Start with `make demo`, `make test-fast` or `make test`. Each target installs what it needs in this folder.
.DEFAULT_GOAL := help
SHELL := /bin/bash
MAKEFLAGS += --no-print-directory
# Some images set it. Every start of a process would compile all modules again, and every test run all tests.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,\
  $(shell $(p) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(p))))
BIN := .venv/bin
READY := .venv/.ready
PROTO_BIN := .venv-proto/bin
PROTO_READY := .venv-proto/.ready
PROTOS := $(wildcard protos/tokenwire/v1/*.proto)

.PHONY: help
help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(READY) ## Create the virtual environment .venv (other targets do this when needed)
	@:

$(READY): requirements/dev.lock pyproject.toml client/pyproject.toml server/pyproject.toml
	@test -n "$(PYTHON)" || { echo "Tokenwire needs Python 3.11 or newer: none was found on the PATH"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Tokenwire needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version)"; exit 1; }
	@echo "setting up .venv ($$($(PYTHON) --version), about a minute)"
	@$(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
	  --editable client --editable server
	@touch $@

$(PROTO_READY): requirements/proto.lock
	@$(PYTHON) -m venv --clear .venv-proto
	@$(PROTO_BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/proto.lock
	@touch $@

.PHONY: demo
demo: $(READY) ## Start the built-in demo, stream one chat to the terminal, and stop
	@$(BIN)/python scripts/demo.py

.PHONY: run
run: $(READY) ## Serve the built-in demo on 127.0.0.1:50051, and its playground on :8080, until Ctrl-C
	@$(BIN)/python scripts/run.py

.PHONY: wheel
wheel: $(READY) ## Build the wheels of the client and of the server in dist/
	@set -o pipefail; for project in client server; do \
	  (cd $$project && ../$(BIN)/python -m hatchling build -t wheel -d ../dist 2>&1 | sed 's|^\.\./||') || exit 1; \
	done

.PHONY: test
test: $(READY) ## Run the tests (minutes)
	@$(BIN)/python -m pytest -n 6 --dist worksteal -q

.PHONY: test-fast
test-fast: $(READY) ## Run the tests that start no process: no server, no PostgreSQL, no command (a minute)
	@$(BIN)/python -m pytest -n 6 --dist worksteal -q --hypothesis-profile fast \
	  -m "not (process or faults or soak)" tests/server tests/client tests/conformance tests/histories

.PHONY: check
check: lint types layers proto-check test ## Run all checks: lint, types, layers, protos, tests

.PHONY: lint
lint: $(READY) ## Lint the code, and check its formatting and the generated client
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/python scripts/generate_sync.py --check
	@$(BIN)/python scripts/generate_exports.py --check

.PHONY: format
format: $(READY) ## Format the code and the protos
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/ruff format .
	@$(BIN)/buf format --write protos

.PHONY: types
types: $(READY) ## Check the types
	@$(BIN)/mypy

.PHONY: layers
layers: $(READY) ## Check that imports point downward only
	@$(BIN)/lint-imports --no-cache > /dev/null || $(BIN)/lint-imports --no-cache

.PHONY: sync
sync: $(READY) ## Generate the client for threads from the asyncio client, and the list of its public names
	@$(BIN)/python scripts/generate_sync.py
	@$(BIN)/python scripts/generate_exports.py

.PHONY: proto
proto: $(READY) $(PROTO_READY) ## Generate the Python code and the descriptors of the protos
	@scripts/generate

.PHONY: docs
docs: $(READY) ## Write the generated parts of docs/: settings, providers, Python; the OpenAPI document, and the dashboard
	@$(BIN)/python scripts/configuration.py
	@$(BIN)/python scripts/providers.py
	@$(BIN)/python scripts/dashboard.py
	@$(BIN)/python scripts/openapi.py
	@$(BIN)/python scripts/python_reference.py

.PHONY: proto-check
proto-check: $(READY) $(PROTO_READY) ## Lint the protos, check for breaking changes, and that the generated code is current
	@$(BIN)/buf lint protos
	@$(BIN)/buf format --diff --exit-code protos
	@$(BIN)/buf breaking protos --against protos/released.binpb
	@scripts/generate --check

.PHONY: tools
tools: .tools/bin/grpcurl ## Install grpcurl, nginx, Chromium and more for the tests (needs Go, and root with apt-get)
	@scripts/browser_tools

.tools/bin/grpcurl:
	@GOBIN=$(CURDIR)/.tools/bin go install github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4

.PHONY: bench
bench: $(READY) ## Measure CPU, latency, memory and bytes per token, compared with bare grpc.aio (minutes)
	@$(BIN)/python tests/bench

.PHONY: bench-peers
bench-peers: $(READY) ## Measure nginx, LiteLLM and Portkey under the same load (minutes; installs the last two in .tools)
	@$(BIN)/python tests/bench/peers.py

.PHONY: faults
faults: $(READY) ## Run the fault tests at full size (minutes)
	@$(BIN)/python -m pytest -m faults -q -s

.PHONY: real
real: $(READY) ## Compare with the SDKs on llama.cpp's own server (minutes; builds it in .tools: 10 to 30 more)
	@PYTHON=$(PYTHON) scripts/llama_server
	@$(BIN)/python -m pytest -m real -q tests/real

.PHONY: image-test
image-test: $(READY) ## Build, run and stop the container images (minutes; needs buildah, debootstrap and root)
	@$(BIN)/python -m pytest -n 0 -m image -q tests/deploy/test_image.py

.PHONY: soak
ifdef MINUTES
soak: $(READY)
	@TOKENWIRE_SOAK_MINUTES=$(MINUTES) $(BIN)/python -m pytest -n 0 -m soak -q -s tests/faults/test_soak.py
else
soak: bench faults ## Run what takes too long for each change (an hour). MINUTES=60: only a random mix of calls and faults
	@$(BIN)/python -m pytest -n 2 --dist worksteal -q --timeout 3600 --hypothesis-profile soak \
	  -m "soak or hypothesis"
endif

.PHONY: audit
audit: .tools/audit/.ready ## Look up known vulnerabilities of the locked packages (needs pypi.org)
	@for lock in image build dev proto audit; do \
	  echo "requirements/$$lock.lock"; \
	  .tools/audit/bin/pip-audit --strict --progress-spinner off --disable-pip --require-hashes \
	    -r requirements/$$lock.lock || exit 1; \
	done

.tools/audit/.ready: requirements/audit.lock
	@$(PYTHON) -m venv --clear .tools/audit
	@.tools/audit/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes \
	  -r requirements/audit.lock
	@touch $@

LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
  --no-emit-index-url --no-emit-find-links --no-annotate --no-emit-package tokenwire

.PHONY: lock
lock: $(READY) ## Update the lock files: names, versions and hashes, no addresses
	@$(LOCK) --all-extras --group dev -o requirements/dev.lock client/pyproject.toml server/pyproject.toml
	@$(LOCK) --all-extras -c requirements/dev.lock -o requirements/image.lock client/pyproject.toml server/pyproject.toml
	@$(LOCK) --group pyproject.toml:build -c requirements/dev.lock -o requirements/build.lock
	@$(LOCK) --group pyproject.toml:proto -o requirements/proto.lock
	@$(LOCK) --group pyproject.toml:real -o requirements/real.lock
	@$(LOCK) --group pyproject.toml:audit -o requirements/audit.lock

.PHONY: clean
clean: ## Remove all files that these targets created
	@rm -rf .venv .venv-proto .tools bench-out dist tests/edge/js/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis
