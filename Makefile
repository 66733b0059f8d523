# One command for everything. Each target sets up .venv by itself, once, and again only when
# pyproject.toml or the constraints change. pip reads its usual PIP_* environment variables.

PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
VENV := .venv
PEERS := .venv-peers
PY := $(VENV)/bin/python

# Every version is pinned, also in the environment that pip builds the package in: before release 25.3 pip
# takes those from PIP_CONSTRAINT, since then from PIP_BUILD_CONSTRAINT. Relative, as pip splits them at spaces.
export PIP_CONSTRAINT := $(strip $(CONSTRAINTS) $(PIP_CONSTRAINT))
export PIP_BUILD_CONSTRAINT := $(strip $(CONSTRAINTS) $(PIP_BUILD_CONSTRAINT))
export PIP_DISABLE_PIP_VERSION_CHECK ?= 1
export PIP_QUIET ?= 1
INSTALL := PYTHONWARNINGS='ignore:Editable installation' $(PY) -m pip install

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL: # two pips must not write to one environment; `make -j` is accepted and changes nothing
.PHONY: help demo demo-serve test test-all check format bench paper peers coverage clean distclean load

help: ## show this list
	@echo 'usage: make TARGET [PYTHON=python3.12] [ARGS=...]'
	@echo
	@sed -n 's/^\([a-z][a-z-]*\):.*## \(.*\)/  \1|\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{ printf "%-12s %s\n", $$1, $$2 }'
	@echo
	@echo 'PYTHON       the Python that .venv is made with, 3.11 or later'
	@echo 'ARGS         more arguments for the demo or pytest: make test ARGS="-k plan -x"'
	@echo 'PIP_QUIET    0 shows what pip does, and the progress of downloads'
	@echo 'CONSTRAINTS  the file of pinned versions; empty for the newest ones'

demo: $(VENV)/.demo ## train a small network, compile it for three requests, leave the results in demo/
	$(VENV)/bin/qpart demo $(ARGS)

demo-serve: $(VENV)/.dev ## a server and two devices as processes; the link slows, the server dies and comes back
	$(VENV)/bin/qpart demo --serve --directory demo/serve $(ARGS)

test: $(VENV)/.dev ## run the tests, without the slow ones
	$(PY) -m pytest $(ARGS)

test-all: $(VENV)/.dev ## run all tests, the slow ones too
	$(PY) -m pytest -m '' $(ARGS)

check: $(VENV)/.dev ## check style, types and the direction of imports; changes nothing
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy
	$(VENV)/bin/lint-imports --no-logo

format: $(VENV)/.dev ## put the code into the style that `make check` asks for
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

bench: $(VENV)/.dev ## run the micro-benchmarks, beside those that were saved last (ARGS of pytest, or --no-save)
	$(PY) -m benchmarks.micro $(ARGS)

paper: $(VENV)/.dev ## run the paper's experiments and those beyond it (ARGS: the folder of real networks and data)
	$(PY) -m benchmarks.reproduce $(ARGS)

peers: $(PEERS)/.installed ## run other tools beside ours, in an environment of their own (ARGS as of paper)
	$(PEERS)/bin/python -m benchmarks.peers $(ARGS)

load: $(VENV)/.dev ## measure calls a second of the server (ARGS: the folder of real networks, --rounds N)
	$(PY) -m benchmarks.serving $(ARGS)

coverage: $(VENV)/.coverage-suite ## capture and split over a hundred networks (ARGS: parts of names, or --sample)
	$(PY) -m tests.coverage.report $(ARGS)

clean: ## remove caches, build outputs and demo/; .venv and results stay
	rm -rf build dist demo *.egg-info .coverage .coverage.* htmlcov
	rm -rf .benchmarks .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find qpart_fx passes backends benchmarks tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## clean, and remove the environments too
	rm -rf $(VENV) $(PEERS)

# The set-up: .created is an empty environment, .demo holds what the demo needs, .dev what tests and checks need too.

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo 'This needs Python 3.11 or later, and "$(PYTHON)" is missing or older ('"`$(PYTHON) -V 2>&1 | tail -1`"').' >&2; \
	  echo 'Name another one: make PYTHON=python3.12 ...' >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo 'This Python comes without venv. On Debian and Ubuntu: apt install python3-venv' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --upgrade pip
	@touch $@

$(VENV)/.demo: $(VENV)/.created pyproject.toml $(CONSTRAINTS)
	@echo 'Installing what the demo needs into $(VENV); torch is large (PIP_QUIET=0 shows the progress) ...'
	$(INSTALL) --editable '.[demo]'
	@touch $@

$(VENV)/.dev: $(VENV)/.created pyproject.toml $(CONSTRAINTS)
	@echo 'Installing what tests and checks need into $(VENV); torch is large (PIP_QUIET=0 shows the progress) ...'
	$(INSTALL) --editable '.[dev]'
	@touch $(VENV)/.demo $@

# Of other tools, which want other versions than the project's constraints.
$(PEERS)/.installed: benchmarks/peers/requirements.txt
	$(PYTHON) -m venv $(PEERS)
	@echo 'Installing other tools into $(PEERS) ...'
	PIP_CONSTRAINT= PIP_BUILD_CONSTRAINT= $(PEERS)/bin/python -m pip install -r $<
	@touch $@

$(VENV)/.coverage-suite: $(VENV)/.created pyproject.toml $(CONSTRAINTS)
	@echo 'Installing the libraries of networks into $(VENV) ...'
	$(INSTALL) --editable '.[coverage]'
	@touch $@
