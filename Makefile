# `make app` starts the app (`make app PORT=7861` on another port), `make check` runs what a change should pass before it
# is committed, `make test` everything but the drills that kill workers, which `make drills` runs in short.
# Each makes its virtual environment first.
PYTHON ?= python3
BIN = .venv/bin
# Two test processes of one thread each: torch with more threads than cores is several times slower.
TEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

.PHONY: app check lint test drills format
app: .venv/app
	$(BIN)/python app.py $(if $(PORT),--port $(PORT))

check: lint
	$(TEST) -q -m "not slow and not browser"

test: lint
	$(TEST) -m "not drill"

drills: .venv/dev
	$(TEST) -m drill

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/bin/python:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "golden needs Python 3.11 or newer"'
	$(PYTHON) -m venv .venv

.venv/app: requirements.txt pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

.venv/dev: requirements.txt requirements-dev.txt pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@ .venv/app
