# `make run` starts Parley, `make test` checks it. Both install what they need into .venv first.

.PHONY: help run test faults clean
.DEFAULT_GOAL := help

MADE_FROM = setup.cfg pyproject.toml Makefile
PIP = .venv/bin/python -m pip --disable-pip-version-check install --quiet

help:
	@echo "make run     start Parley on http://127.0.0.1:8000 with its data in ./data"
	@echo "make test    check style, types, imports and behaviour"
	@echo "make faults  run every fault scenario at its full length, which takes an hour"
	@echo "make clean   remove what the others made, except ./data"

run: .venv/installed
	@exec .venv/bin/parley serve

# Hundreds of servers are started, each of which would compile Parley anew.
test: export PYTHONDONTWRITEBYTECODE =
test: .venv/installed-for-tests
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/python -m pytest -q -m "alone and not faults"
	.venv/bin/python -m pytest -q -m "not alone and not faults" -n 4 --dist loadfile --no-loadscope-reorder

faults: .venv/installed-for-tests
	.venv/bin/python -m pytest -m "faults or not faults" tests/faults

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

# A stamp is written last: an interrupted installation is begun again.
.venv/installed: $(MADE_FROM)
	@set -e; \
	for python in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11; do \
		if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			echo "Installing Parley into .venv with $$("$$python" --version); this happens once."; \
			"$$python" -m venv --clear .venv; \
			exit 0; \
		fi; \
	done; \
	echo "Parley needs Python 3.11 or newer with its venv module, and found none." >&2; \
	echo "Install it (Debian, Ubuntu: python3 and python3-venv; macOS: brew install python3)," >&2; \
	echo "or name one: make PYTHON=/path/to/python3 $(MAKECMDGOALS)" >&2; \
	exit 1
	@$(PIP) --editable .
	@touch $@

.venv/installed-for-tests: .venv/installed
	@echo "Installing what the tests need; this happens once."
	@$(PIP) --editable '.[test]'
	@touch $@
