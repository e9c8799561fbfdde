# timbr_wamp from a bare clone. Needs only Python 3.11 or newer and make; `make help` lists the targets.
#
# Environments are made once, with uv when it is there, else with venv and pip:
#   .venv         ours
#   .router-env   Crossbar.io's own, since its pins cannot live beside Jupyter's

PYTHON ?= python3
SOURCE ?= metrics
BIN := .venv/bin

ifndef TIMBR_WAMP_ROUTER_ENV
export TIMBR_WAMP_ROUTER_ENV := $(CURDIR)/.router-env
endif

# Files that say "this is made". Router environment and page see to that themselves.
INSTALLED := .venv/.timbr-wamp-installed
TOOLS := .venv/.timbr-wamp-tools

TOOL_EXTRAS := [test,lint,bench]
PACKAGING := setup.cfg setup.py pyproject.toml

# A usable Node builds the page; where there is none, a wheel brings one.
NODE_EXTRA = $(shell command -v npm >/dev/null 2>&1 && node -e 'const [a, b] = process.versions.node.split("."); process.exit(+(a * 100 + +b < 2019))' \
	>/dev/null 2>&1 || echo '[node]')

.DEFAULT_GOAL := help
.PHONY: help demo test soak lint bench docs page wheel clean distclean

help:  ## say what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

demo: $(INSTALLED) router-env page  ## router, page, a kernel with a machine on live input (SOURCE=earthquakes: real data replayed)
	@exec $(BIN)/timbr-wamp demo --source $(SOURCE) --next-free-port

test: $(TOOLS) router-env page  ## the whole suite
	$(BIN)/python -m pytest

soak: $(TOOLS) router-env page  ## the long forms of the tests: chaos, conformance
	$(BIN)/python -m pytest -m soak --timeout 3600

lint: $(TOOLS)  ## layout, mistakes, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(TOOLS) router-env  ## measure; prints ratios
	$(BIN)/python -m benchmarks

docs: $(TOOLS)  ## write the generated pages anew, check names and links
	$(BIN)/python -m timbr_wamp.contract.exports
	$(BIN)/python -m timbr_wamp.cli.reference
	$(BIN)/python -m pytest -q tests/test_docs.py tests/test_generated.py

page: | $(INSTALLED)  ## build the page into the package, unless it is up to date
	@$(BIN)/python -m timbr_wamp.dashboard.build

wheel: $(TOOLS) page  ## dist/timbr_wamp-….whl, with page, router configuration and demo data
	rm -rf build
	$(BIN)/python -m build --wheel

clean:  ## remove what was built; keep the environments
	rm -rf build dist timbr_wamp.egg-info timbr_wamp/dashboard/static .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -not -path './.*' -prune -exec rm -rf {} +

distclean: clean  ## remove the environments too
	rm -rf .venv .router-env frontend/node_modules

# --- what the targets above need ---------------------------------------------------------------

# $(call install,[EXTRAS]): this package, editable.
define install
@if command -v uv >/dev/null 2>&1; then \
	uv pip install --quiet --python $(BIN)/python -e '.$(1)'; \
else \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.$(1)'; \
fi
endef

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
		echo "make: there is no $(PYTHON): install Python 3.11 or newer, or name one: make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "make: $(PYTHON) is older than 3.11: install a newer Python, or name one: make PYTHON=python3.12 …" >&2; exit 1; }
	@echo "making .venv with $$($(PYTHON) --version)"
	@if command -v uv >/dev/null 2>&1; then uv venv --quiet --python "$$(command -v $(PYTHON))" .venv; \
	elif $(PYTHON) -c 'import venv, ensurepip' 2>/dev/null; then $(PYTHON) -m venv .venv; \
	else echo "make: $(PYTHON) lacks its venv module: install python3-venv (Debian, Ubuntu) or uv" >&2; exit 1; fi

$(INSTALLED): $(PACKAGING) | $(BIN)/python
	@echo "installing timbr_wamp and what it needs into .venv"
	$(call install,$(NODE_EXTRA))
	@touch $@

$(TOOLS): $(INSTALLED)
	@echo "installing what tests, lint and benchmarks need into .venv"
	$(call install,$(TOOL_EXTRAS))
	@touch $@

.PHONY: router-env
router-env: | $(INSTALLED)
	@$(BIN)/timbr-wamp router install
