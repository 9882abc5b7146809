# The commands of this project; `make` alone lists them. Needs GNU make (3.81 will do),
# Python 3.11 or newer, and a package index that pip can reach. Nothing else.

.DEFAULT_GOAL := help
.PHONY: help run demo test test-litellm-range isolation bench reliability screenshots lint lock
.PHONY: clean
.PHONY: .venv .venv-litellm .venv-litellm-oldest
SHELL := /bin/sh
# What pip says about a network that is not there does not name it.
OFFLINE := { echo 'The packages could not be installed: can pip reach a package index from here?' >&2; exit 1; }
PIP := -m pip --disable-pip-version-check -qq

help:
	@echo 'make run             everything from nothing to a running vault on http://127.0.0.1:8000'
	@echo 'make demo            the whole story without a Claude account: a simulated Anthropic, the'
	@echo '                     vault, two LiteLLM proxies; ARGS="--once" ends after the story'
	@echo 'make test            the test suite on SQLite, then on PostgreSQL and Redis;'
	@echo '                     make test ARGS="--only sqlite -k refresh" for a part of it'
	@echo 'make test-litellm-range   the hook in the oldest and the newest LiteLLM that it supports'
	@echo 'make isolation       ten thousand requests in 16 threads, and every address × every stranger'
	@echo 'make bench           measure: ratios of one interleaved run, as a table and as JSON'
	@echo 'make reliability     many callers, kill -9, faults: what holds, into docs/reliability.md'
	@echo 'make screenshots     the dashboard in a browser, into docs/screenshots'
	@echo 'make lint            ruff, mypy, import-linter'
	@echo 'make lock            resolve the dependencies anew into the lock files'
	@echo 'make .venv           the environment for developers alone'
	@echo 'make .venv-litellm   a LiteLLM proxy with the hook in it, in .venv-litellm'
	@echo 'make clean           remove the environments and caches; data/ stays'
	@echo
	@echo 'make PYTHON=/path/to/python3.13 … uses that interpreter for new environments.'

# The recipe's shell gives way to the vault, so that a signal to make's child reaches it.
run: .venv/.runtime
	@exec .venv/bin/oauthvault up

demo: .venv/.runtime .venv-litellm/.installed
	@exec .venv/bin/python -m demo $(ARGS)

test: .venv/.dev
	@exec .venv/bin/python -m tests $(ARGS)

test-litellm-range: .venv/.dev .venv-litellm-oldest .venv-litellm
	@for environment in .venv-litellm-oldest .venv-litellm; do \
		echo; echo "$$environment: LiteLLM $$($$environment/bin/python -c 'import importlib.metadata as m; print(m.version("litellm"))')"; \
		TEST_LITELLM_ENVIRONMENT='$(CURDIR)'/$$environment .venv/bin/python -m tests --only sqlite \
			tests/litellm/test_end_to_end.py tests/litellm/test_the_document.py $(ARGS) || exit 1; \
	done

isolation: .venv/.dev
	@exec .venv/bin/python -m tests --only postgresql \
		tests/api/test_threads.py tests/api/test_every_route.py tests/api/test_isolation.py \
		tests/admin/test_every_page.py $(ARGS)

bench: .venv/.dev
	@exec .venv/bin/python -m bench $(ARGS)

reliability: .venv/.dev
	@exec .venv/bin/python -m bench.reliability $(ARGS)

screenshots: .venv/.dev
	@exec .venv/bin/python -m pytest -q -s -n 0 -p no:cacheprovider tests/admin/screenshots.py

lint: .venv/.dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	PYTHONPATH=integrations/litellm .venv/bin/lint-imports

# --- Lock files ---------------------------------------------------------------------------
# For every platform and every Python from 3.11 on, with hashes, and without a word about
# the index that answered: the last line refuses a file with an address in it.

COMPILE := .venv/bin/uv pip compile --quiet --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-header

lock: .venv/.dev
	$(COMPILE) pyproject.toml --group build -o requirements/runtime.lock
	$(COMPILE) pyproject.toml --group dev -c requirements/runtime.lock -o requirements/dev.lock
	$(COMPILE) integrations/litellm/requirements.in -o integrations/litellm/requirements.lock
	$(COMPILE) integrations/litellm/requirements-oldest.in -o integrations/litellm/requirements-oldest.lock
	@! grep -n '://' requirements/*.lock integrations/litellm/*.lock

# --- Environments -------------------------------------------------------------------------
# A stamp is written when all of its step is done, and never before: an interrupted
# install is taken up again, a changed lock file is installed, and else nothing happens.
# --no-deps: a lock file names everything. Left to resolve, pip stumbles over the extras of
# a locked package (`pydantic[email]`) as soon as a newer release of it is out.

.venv: .venv/.dev

.venv/.runtime: .venv/.made requirements/runtime.lock pyproject.toml
	@rm -f $@
	@echo 'Installing the locked packages into .venv (a minute or two, the first time)'
	@.venv/bin/python $(PIP) install --no-deps --require-hashes -r requirements/runtime.lock || $(OFFLINE)
	@.venv/bin/python $(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

.venv/.dev: .venv/.made requirements/runtime.lock requirements/dev.lock pyproject.toml
	@rm -f $@
	@echo 'Installing the locked packages for developers into .venv (some minutes, the first time)'
	@.venv/bin/python $(PIP) install --no-deps --require-hashes -r requirements/dev.lock || $(OFFLINE)
	@.venv/bin/python $(PIP) install --no-deps --no-build-isolation -e .
	@touch .venv/.runtime $@

.venv-litellm: .venv-litellm/.installed

.venv-litellm/.installed: .venv-litellm/.made integrations/litellm/requirements.lock \
		integrations/litellm/pyproject.toml
	@rm -f $@
	@echo 'Installing LiteLLM and the hook into .venv-litellm (some minutes, the first time)'
	@.venv-litellm/bin/python $(PIP) install --no-deps --require-hashes -r integrations/litellm/requirements.lock || $(OFFLINE)
	@.venv-litellm/bin/python $(PIP) install --no-deps --no-build-isolation -e integrations/litellm
	@touch $@

.venv-litellm-oldest: .venv-litellm-oldest/.installed

.venv-litellm-oldest/.installed: .venv-litellm-oldest/.made \
		integrations/litellm/requirements-oldest.lock integrations/litellm/pyproject.toml
	@rm -f $@
	@echo 'Installing the oldest LiteLLM that is supported, and the hook, into .venv-litellm-oldest'
	@.venv-litellm-oldest/bin/python $(PIP) install --no-deps --require-hashes -r integrations/litellm/requirements-oldest.lock || $(OFFLINE)
	@.venv-litellm-oldest/bin/python $(PIP) install --no-deps --no-build-isolation -e integrations/litellm
	@touch $@

# An environment that does not run (its Python was removed) or was made for another folder
# (the checkout was moved or copied) is made anew; one that somebody else made is kept.
usable = $(shell grep -qsF '$(CURDIR)/$(1)' $(1)/bin/activate && \
	$(1)/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo yes)

ifneq ($(call usable,.venv),yes)
.PHONY: .venv/.made
endif
ifneq ($(call usable,.venv-litellm),yes)
.PHONY: .venv-litellm/.made
endif
ifneq ($(call usable,.venv-litellm-oldest),yes)
.PHONY: .venv-litellm-oldest/.made
endif

.venv/.made .venv-litellm/.made .venv-litellm-oldest/.made:
	@set -e; environment=$(@D); \
	if [ '$(call usable,$(@D))' = yes ] && "$$environment/bin/python" -m pip --version >/dev/null 2>&1; then \
		touch $@; exit 0; \
	fi; \
	sound='import sys, ssl, sqlite3, venv; sys.exit(sys.version_info < (3, 11))'; \
	chosen=; half=; \
	for candidate in $(if $(PYTHON),'$(PYTHON)',python3.14 python3.13 python3.12 python3.11 python3); do \
		"$$candidate" -c "$$sound" >/dev/null 2>&1 || continue; \
		if "$$candidate" -c 'import ensurepip' >/dev/null 2>&1; then chosen=$$candidate; break; fi; \
		half=$$candidate; \
	done; \
	if [ -z "$$chosen" ] && [ -n "$$half" ]; then \
		echo "$$half has no ensurepip, which a virtual environment needs; on Debian or Ubuntu: apt install python3-venv" >&2; exit 1; \
	elif [ -z "$$chosen" ]; then \
		echo "Python 3.11 or newer is needed, with ssl and sqlite3, and $(if $(PYTHON),$(PYTHON) is not such a one,none was found; name one with make PYTHON=/path/to/python3)." >&2; exit 1; \
	fi; \
	echo "Making $$environment with $$("$$chosen" --version)"; \
	rm -rf "$$environment"; \
	"$$chosen" -m venv "$$environment"; \
	touch $@

clean:
	rm -rf .venv .venv-litellm .venv-litellm-oldest .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
