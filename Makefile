# timbr_wamp from a bare clone. Needs only Python 3.11 or newer and make; `make help` lists the targets.
#
# Environments are made once, by uv, from the locks: every version and hash. pip brings uv where there is none.
#   .venv         ours                     locks/runtime.txt, locks/develop.txt
#   .router-env   Crossbar.io's own, since its pins cannot live beside Jupyter's; router-config/requirements.txt

PYTHON ?= python3
SOURCE ?= metrics
BIN := .venv/bin
UV := $(or $(shell command -v uv 2>/dev/null),$(BIN)/uv)

# Files that say "this is made". Router environment and page see to that themselves.
INSTALLED := .venv/.timbr-wamp-installed
TOOLS := .venv/.timbr-wamp-tools

PACKAGING := setup.cfg setup.py pyproject.toml

# A usable Node builds the page; where there is none, a wheel brings one.
NODE_LOCK = $(shell command -v npm >/dev/null 2>&1 && node -e 'const [a, b] = process.versions.node.split("."); process.exit(+(a * 100 + +b < 2019))' \
	>/dev/null 2>&1 || echo locks/node.txt)

.DEFAULT_GOAL := help
.PHONY: help demo test soak newest oldest lint bench docs page node-packages router-env wheel lock upgrade clean distclean

help:  ## say what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

demo: $(INSTALLED)  ## router, page, a kernel with a machine on live input (SOURCE=earthquakes: real data replayed)
	@$(MAKE) --no-print-directory -j2 router-env page
	@exec $(BIN)/timbr-wamp demo --source $(SOURCE) --next-free-port

test: $(TOOLS)  ## the whole suite, on all cores, in random order
	@$(MAKE) --no-print-directory -j2 router-env page
	@$(MAKE) --no-print-directory node-packages
	$(BIN)/python -m pytest

soak: $(TOOLS) newest oldest  ## what runs for long: chaos, conformance; the newest and the oldest versions allowed
	@$(MAKE) --no-print-directory -j2 router-env page
	@$(MAKE) --no-print-directory node-packages
	$(BIN)/python -m pytest -m soak --numprocesses 0 --timeout 3600

# What needs neither router nor kernel, with versions that the lock does not name: setup.cfg's bounds must be true.
newest: RESOLUTION := highest
oldest: RESOLUTION := lowest-direct
newest oldest: | $(BIN)/python $(UV)
	$(UV) venv --quiet --clear --python $(BIN)/python .soak/$@
	$(UV) pip install --quiet --python .soak/$@/bin/python --resolution $(RESOLUTION) --build-constraints locks/build.txt -e '.[test]'
	.soak/$@/bin/python -m pytest tests/unit tests/contract tests/properties

lint: $(TOOLS)  ## layout, mistakes, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(TOOLS) router-env  ## measure; prints ratios
	$(BIN)/python -m benchmarks

docs: $(TOOLS)  ## write the generated pages anew, check names and links, build a web site of the documentation
	$(BIN)/python -m timbr_wamp.contract.exports
	$(BIN)/python -m timbr_wamp.cli.reference
	$(BIN)/python -m pytest -q tests/test_docs.py tests/test_generated.py
	rm -rf build/docs
	$(BIN)/python -m sphinx --quiet --fail-on-warning --builder html --doctree-dir build/doctrees docs build/docs
	@echo "the documentation: build/docs/index.html; a web server needs nothing but the folder build/docs"

page: | $(INSTALLED)  ## build the page into the package, unless it is up to date
	@$(BIN)/python -m timbr_wamp.dashboard.build

# What the tests run in Node.js beside the page: clients of other libraries.
node-packages: | $(INSTALLED)
	@$(BIN)/python -m timbr_wamp.dashboard.build --packages tests/node

wheel: $(TOOLS) page  ## dist/timbr_wamp-….whl, with page, router configuration and demo data
	rm -rf build
	$(BIN)/python -m build --wheel --no-isolation

lock:  ## bring the locks in step with setup.cfg; versions that they name stay where they can
	$(LOCK) setup.cfg -o locks/runtime.txt
	$(LOCK) setup.cfg --extra test --extra lint --extra bench --extra docs -c locks/runtime.txt -o locks/develop.txt
	$(LOCK) locks/node.in -o locks/node.txt
	$(LOCK) locks/build.in -o locks/build.txt
	$(LOCK) locks/uv.in -o locks/uv.txt
	$(LOCK) router-config/requirements.in --excludes router-config/excludes.txt -o router-config/requirements.txt
	@for os in linux macos; do for version in 3.11 3.12 3.13; do for locked in locks/develop.txt router-config/requirements.txt; do \
		$(UV) pip install --quiet --dry-run --target .soak/lock --no-deps --require-hashes --build-constraints locks/build.txt \
			--python-platform $$os --python-version $$version -r $$locked || exit 1; done; done; done

upgrade: | $(INSTALLED)  ## renew every version in the locks, the npm packages' too; then: make test
	@$(MAKE) --no-print-directory lock RENEW=--upgrade
	$(BIN)/python -m timbr_wamp.dashboard.build --upgrade
	$(BIN)/python -m timbr_wamp.dashboard.build --upgrade tests/node

clean:  ## remove what was built; keep the environments
	rm -rf build dist timbr_wamp.egg-info timbr_wamp/dashboard/static docs/reference/api .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -not -path './.*' -prune -exec rm -rf {} +

distclean: clean  ## remove the environments too
	rm -rf .venv .router-env .router-env.lock .soak frontend/node_modules tests/node/node_modules

# --- what the targets above need ---------------------------------------------------------------

LOCK = $(UV) pip compile --quiet $(RENEW) --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--annotation-style line --custom-compile-command 'make upgrade'

# $(call briefly,COMMAND): its output only when it fails. Ctrl-C ends the shell before: make's own line is enough.
briefly = output=$$($(1) 2>&1) || { printf '%s\n' "$$output" >&2; exit 1; }

# $(call install,LOCKS): exactly what the locks name, and this package, editable.
define install
@$(UV) pip sync --quiet --python $(BIN)/python --require-hashes $(1) $(NODE_LOCK)
@$(UV) pip install --quiet --python $(BIN)/python --no-deps --build-constraints locks/build.txt -e .
endef

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
		echo "make: there is no $(PYTHON): install Python 3.11 or newer, or name one: make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "make: $(PYTHON) is older than 3.11: install a newer Python, or name one: make PYTHON=python3.12 …" >&2; exit 1; }
	@echo "making .venv with $$($(PYTHON) --version)"
	@if [ '$(UV)' != '$(BIN)/uv' ]; then $(UV) venv --quiet --python "$$(command -v $(PYTHON))" .venv; \
	elif $(PYTHON) -c 'import venv, ensurepip' 2>/dev/null; then $(call briefly,$(PYTHON) -m venv .venv); \
	else echo "make: $(PYTHON) lacks its venv module: install python3-venv (Debian, Ubuntu) or uv" >&2; exit 1; fi

$(BIN)/uv: | $(BIN)/python
	@echo "bringing uv, which installs the rest"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { $(call briefly,$(BIN)/python -m ensurepip); }
	@$(call briefly,$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r locks/uv.txt)

# Tools that are there stay.
$(INSTALLED): $(PACKAGING) locks/runtime.txt | $(BIN)/python $(UV)
	@echo "installing timbr_wamp and what it needs into .venv"
	$(call install,locks/uv.txt $(if $(wildcard $(TOOLS)),locks/develop.txt,locks/runtime.txt))
	@touch $@ $(wildcard $(TOOLS))

$(TOOLS): $(INSTALLED) locks/develop.txt
	@echo "installing what tests, lint and benchmarks need into .venv"
	$(call install,locks/uv.txt locks/develop.txt)
	@touch $@

router-env: | $(INSTALLED)
	@$(BIN)/timbr-wamp router install
