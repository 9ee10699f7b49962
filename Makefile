# Lakeward: `make help` lists the targets. Everything is installed into .tools, .venv and .stack of this folder;
# Debian packages are installed only where they are missing, and only as root.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

UV := .tools/bin/uv
# A find-links folder of the machine must not decide what is installed; hashes do.
unexport PIP_FIND_LINKS
export UV_CACHE_DIR ?= $(CURDIR)/.tools/cache

.PHONY: help setup packages demo test lint chaos histories kills soak flaky bench bench-long lock stack-up stack-down clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-11s %s\n", $$1, $$2}'

setup: packages .venv/.stamp .stack/dist/.stamp ## Install what everything needs (Debian packages as root, uv, Python packages, jars)

packages:
	@docker/debian-packages.sh

$(UV): requirements-uv.lock | packages
	python3 -m venv .tools
	.tools/bin/pip install -q --disable-pip-version-check --require-hashes -r requirements-uv.lock
	@touch $@

.venv/.stamp: requirements-dev.lock pyproject.toml $(UV)
	$(UV) venv -q --allow-existing --python python3 .venv
	$(UV) pip sync -q --python .venv/bin/python --require-hashes requirements-dev.lock
	$(UV) pip install -q --python .venv/bin/python --no-deps --no-build-isolation -e .
	@touch $@

.stack/dist/.stamp: .venv/.stamp stack/versions.py stack/poms.py stack/dist.py
	.venv/bin/cdc stack prepare
	@touch $@

demo: setup ## Show it all on a real local stack: changes in two databases, the same rows in lake tables
	.venv/bin/python -m demo

test: setup ## Run all tests on real services
	.venv/bin/pytest -n 2 --dist loadfile --durations=40

lint: .venv/.stamp ## ruff and strict mypy
	.venv/bin/ruff check --no-cache .
	.venv/bin/ruff format --check --no-cache .
	.venv/bin/mypy
	@for folder in $$(find tests -name '*.py' -exec dirname {} + | sort -u); do \
		echo "mypy $$folder"; MYPYPATH=$$folder:$$(dirname $$folder) .venv/bin/mypy $$folder/*.py || exit 1; \
	done

SEED ?=
MINUTES ?= 5
chaos: setup ## Random changes and faults, then source = table or not: make chaos SEED=1 MINUTES=20
	.venv/bin/python -m chaos $(if $(SEED),--seed $(SEED)) --minutes $(MINUTES)

HISTORIES ?= 1000
histories: setup ## Thousands of random histories of workers around one table, by every sink: make histories HISTORIES=5000
	HISTORIES=$(HISTORIES) .venv/bin/pytest -n 2 -v --timeout 0 tests/contract/test_histories.py

kills: setup ## SIGKILL at every kind of step that a worker makes, alone and beside another one, and at every step of commits; zombies
	STEPS=all .venv/bin/pytest -n 2 -v -rP --timeout 0 -k "(killed or froze) and not frozen" tests/chaos/test_worker_steps.py tests/chaos/test_zombies.py tests/contract

soak: setup ## A worker under a steady load for an hour: does anything grow that mustn't? make soak MINUTES=60
	.venv/bin/python -m chaos.soak $(if $(filter command line,$(origin MINUTES)),--minutes $(MINUTES))

SUITE ?= delta
RUNS ?= 10
flaky: setup ## Repeat the tests of Spark and count those that don't always pass: make flaky SUITE=delta RUNS=10
	.venv/bin/python tests/flaky.py $(SUITE) $(RUNS)

bench: setup ## Measure throughput beside raw aiokafka and a plain Faust agent
	.venv/bin/python -m benchmarks

bench-long: setup ## An upsert table through 5,000 commits: commit and scan times, sizes, three readers (hours)
	.venv/bin/python -m benchmarks.long

lock: $(UV) ## Resolve the dependencies anew
	$(UV) pip compile -q --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 --extra dev pyproject.toml -o requirements-dev.lock
	$(UV) pip compile -q --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 -c requirements-dev.lock pyproject.toml -o requirements.lock

stack-up: setup ## Start the local stack (Kafka, Connect, registry, databases, S3, Iceberg catalog)
	.venv/bin/cdc stack up

stack-down: ## Stop the local stack
	.venv/bin/cdc stack down

clean: ## Stop the stack and remove everything that was installed or written here
	@if [ -x .venv/bin/cdc ]; then .venv/bin/cdc stack down; fi
	rm -rf .venv .tools .stack .data .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
