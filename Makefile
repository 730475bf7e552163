# Everything a developer needs: `make` alone says what there is.
VENV ?= .venv
BIN := $(CURDIR)/$(VENV)/bin
export PATH := $(BIN):$(PATH)

# the newest of the older major version; constraints.txt has the newest of all
HUB5 := 5.3.0

# Of 2 processors, three that take turns: most tests wait for something. A module's tests stay in one process, as
# they share what it starts (a Kubernetes, a hub), and the longest modules come first.
PROCESSES ?= 3
PYTEST = $(BIN)/pytest --dist loadfile --no-loadscope-reorder --durations 15

# a recipe that takes long ends with it: $(call took,start)
now = $$(date +%s)
took = echo "  … done ($$(($(now) - $(1))) s)"

# what the pages are built from
UI := $(wildcard ui/*.json ui/*.mjs ui/src/* ui/src/*/*)

# HUB=5: the quick half with the older major version of JupyterHub, in the environment that test-hub5 uses
UNIT = $(VENV)$(if $(filter 5,$(HUB)),-hub5)

.PHONY: help demo docs test test-all test-unit test-hub5 test-install lint format hooks release faults bench-quick bench-uploads bench-logs bench-limits soak dist clean

help: ## Say what there is
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

demo: $(VENV)/.demo ## Start a hub with kbatch-server here and run a job on it (ONCE=1: end after the job)
	@$(BIN)/python -m demo $(if $(ONCE),--once) $(if $(PORT),--port $(PORT))

docs: $(VENV)/.test ## Build the documentation as a site, in docs/_build
	@$(BIN)/sphinx-build --fail-on-warning --fresh-env --keep-going --quiet docs docs/_build
	@echo "Open docs/_build/index.html in a browser."

test: test-install ## Run all but what is exhaustive, on a real Kubernetes that is built and started for it
	@$(MAKE) --no-print-directory --jobs 2 --output-sync lint test-hub5
	@$(PYTEST) --numprocesses $(PROCESSES) -m "not exhaustive"

test-all: test-install ## Run everything, what is exhaustive too
	@$(MAKE) --no-print-directory --jobs 2 --output-sync lint test-hub5
	@KBATCH_TEST_FAULTS=long $(PYTEST) --numprocesses $(PROCESSES)

test-unit: $(UNIT)/.test lint ## Run the quick half: neither what is slow nor what needs Kubernetes, other servers, a browser (HUB=5: with JupyterHub 5)
	@PATH=$(CURDIR)/$(UNIT)/bin:$(PATH) $(PYTEST:$(BIN)/%=$(UNIT)/bin/%) --numprocesses 2 --ignore tests/kubernetes --ignore tests/browser -m "not servers and not slow" -p no:schemathesis

test-hub5: $(VENV)-hub5/.test ## Run what meets the hub with JupyterHub 5
	@$(VENV)-hub5/bin/pytest --quiet tests/service/test_auth.py > $(VENV)-hub5.log || (cat $(VENV)-hub5.log; exit 1)
	@echo "With JupyterHub $(HUB5): $$(tail -n 1 $(VENV)-hub5.log)"

test-install: $(VENV)/.test ## Build, download and install what the tests need, before the first of them
	@tests/install_system_packages.sh
	@$(MAKE) --no-print-directory --jobs 2 test-parts $(VENV)-hub5/.test

.PHONY: test-parts
test-parts: $(VENV)/.test
	@$(BIN)/python -m tests.support.provision

# What is linted, and how: .pre-commit-config.yaml calls the same, each when one of its files changed.
LINTERS := lint-style lint-types lint-ui lint-shell lint-workflows lint-chart
.PHONY: $(LINTERS)

lint: $(LINTERS) ## Check style and types, shell scripts, workflows, the chart

lint-style: $(VENV)/.test
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet

lint-types: $(VENV)/.test
	@$(BIN)/mypy --no-error-summary

lint-ui: $(VENV)/.test
	@npm run --silent --prefix ui check

lint-shell lint-workflows lint-chart: lint-%: $(VENV)/.test
	@$(BIN)/python -m tests.support.lint $*

hooks: $(VENV)/.test ## Have git run the linters on each commit, those whose files it changes
	@$(BIN)/pre-commit install

format: $(VENV)/.test ## Put the code into the project's form
	@$(BIN)/ruff check --fix --quiet
	@$(BIN)/ruff format
	@npm run --silent --prefix ui format

faults: test-install ## Stop, kill and delay every part while jobs come in, and print what became of them
	@KBATCH_TEST_FAULTS=long $(BIN)/pytest --capture=no tests/service/test_faults.py tests/kubernetes/test_cluster_faults.py

bench-quick: test-install ## Compare with kbatch-proxy on the same cluster
	@$(BIN)/python -m benchmarks.bench_quick

bench-uploads: $(VENV)/.test ## Measure four uploads of a gigabyte at the same time
	@$(BIN)/python -m benchmarks.bench_uploads

bench-logs: $(VENV)/.test ## Record, read and search a log of a GiB, and see that nothing else waits
	@$(BIN)/python -m benchmarks.bench_logs

bench-limits: $(VENV)/.test ## Measure what limits cost: whose turn it is with 100,000 queued jobs, and submits
	@$(BIN)/python -m benchmarks.bench_limits

soak: $(VENV)/.test ## Send all that could do harm for ten minutes (SOAK_SECONDS), and measure what others notice
	@$(BIN)/python -m benchmarks.bench_hostile

release: $(VENV)/.test ## Commit and tag a release here (VERSION=0.2.0); RELEASE.md says what follows
	@$(BIN)/python scripts/release.py cut $(or $(VERSION),$(error Say which: make release VERSION=0.2.0))

dist: $(VENV)/.test ## Build the sdist and the wheel
	@$(BIN)/python -m build --outdir dist .

clean: ## Remove what was built and installed here
	@rm -rf $(VENV) $(VENV)-hub5* build dist docs/_build *.egg-info .mypy_cache .ruff_cache .pytest_cache

$(VENV)/.demo: scripts/make-venv setup.py constraints.txt demo/node/package-lock.json $(UI)
	@echo "Installing kbatch-server and JupyterHub into $(VENV) …"
	@start=$(now); scripts/make-venv $(VENV) && $(call took,start)
	@touch $@

$(VENV)/.test: scripts/make-venv setup.py constraints.txt requirements-test.txt demo/node/package-lock.json $(UI)
	@echo "Installing kbatch-server and its tests' tools into $(VENV) …"
	@start=$(now); UI_TOOLS=1 scripts/make-venv $(VENV) --requirement requirements-test.txt && $(call took,start)
	@touch $@ $(VENV)/.demo

$(VENV)-hub5/.test: $(VENV)/.test
	@echo "Installing the same with JupyterHub $(HUB5) into $(VENV)-hub5 …"
	@sed 's/^jupyterhub==.*/jupyterhub==$(HUB5)/' constraints.txt > $(VENV)-hub5.txt
	@start=$(now); CONSTRAINTS=$(VENV)-hub5.txt scripts/make-venv $(VENV)-hub5 --requirement requirements-test.txt && \
		$(call took,start)
	@touch $@
