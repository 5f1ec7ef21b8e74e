# One command each; every one sets up its own .venv first. Needs Python 3.11+ and make, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
JOBS ?= 2
PYTEST_ARGS ?=

# Viewers that the integration tests look at, and Gradio for the demos' pages, each in an environment of its own: their
# requirements conflict with ours and with each other's. Whoever has the viewers elsewhere names their bin folders in
# these two variables.
PHOENIX := 20.26.1
MLFLOW := 3.17.2
GRADIO := 6.31.0
TESTCONTAINERS := 4.15.0
HYPERFUNC_TEST_PHOENIX ?= $(CURDIR)/.venv-integration/phoenix-$(PHOENIX)/bin
HYPERFUNC_TEST_MLFLOW ?= $(CURDIR)/.venv-integration/mlflow-$(MLFLOW)/bin
HYPERFUNC_TEST_PICTURES ?= $(CURDIR)/out/pictures
export HYPERFUNC_TEST_PHOENIX HYPERFUNC_TEST_MLFLOW HYPERFUNC_TEST_PICTURES
VIEWERS := $(HYPERFUNC_TEST_PHOENIX:$(CURDIR)/%=%)/phoenix $(HYPERFUNC_TEST_MLFLOW:$(CURDIR)/%=%)/mlflow
WITH_GRADIO := .venv-integration/gradio-$(GRADIO)
CLIENTS := $(VENV)/.integration

.PHONY: help setup demo test check format bench integration reliability wheel clean

help:  ## Show these lines
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[all,dev]'
	touch $(STAMP)

setup: $(STAMP)  ## Make the virtual environment

demo: $(STAMP)  ## Evolve a digits pipeline, then learn a prompt and weights together; plots under out/
	$(BIN)/python -m demos.digits
	$(BIN)/python -m demos.triage

test: $(STAMP)  ## All tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --max-worker-restart 2 $(PYTEST_ARGS)

check: $(STAMP)  ## Formatting, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(STAMP)  ## Format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)  ## The benchmarks behind docs/benchmarks.md (minutes; peers are installed into a venv of their own)
	$(BIN)/python -m benchmarks

.venv-integration/phoenix-$(PHOENIX)/bin/phoenix:
	$(PYTHON) -m venv .venv-integration/phoenix-$(PHOENIX)
	$(@D)/python -m pip install --quiet --disable-pip-version-check arize-phoenix==$(PHOENIX)

.venv-integration/mlflow-$(MLFLOW)/bin/mlflow:
	$(PYTHON) -m venv .venv-integration/mlflow-$(MLFLOW)
	$(@D)/python -m pip install --quiet --disable-pip-version-check mlflow==$(MLFLOW)

$(WITH_GRADIO)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(WITH_GRADIO)
	grep -vE '^(huggingface_hub|pillow|tomlkit)==' constraints.txt > $(WITH_GRADIO)/constraints.txt
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(@D)/constraints.txt torch
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(@D)/constraints.txt \
		--editable '.[agents,plot,demo-web]' gradio==$(GRADIO) pytest pytest-asyncio pytest-timeout hypothesis playwright
	touch $@

$(CLIENTS): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--editable '.[mlflow]' testcontainers==$(TESTCONTAINERS)
	touch $@

integration: $(CLIENTS) $(VIEWERS) $(WITH_GRADIO)/.installed  ## What needs a browser, a database server, a viewer: fails where one is missing
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m integration --require-integration --ignore-glob='tests/agents/*_page.py' $(PYTEST_ARGS)
	OMP_NUM_THREADS=1 $(WITH_GRADIO)/bin/python -m pytest -m integration --require-integration tests/agents/*_page.py $(PYTEST_ARGS)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -k postgres --require-postgres tests/memory $(PYTEST_ARGS)

reliability: $(STAMP)  ## kill -9 at two hundred random moments of runs with tensors and model calls (minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/reliability -m "reliability or slow" $(PYTEST_ARGS)

wheel: $(STAMP)  ## Build the wheel and run the tests from it, outside the checkout
	$(BIN)/python -m build --wheel --outdir dist .

clean:  ## Remove everything that was made here
	rm -rf $(VENV) .venv-integration dist build out .pytest_cache .mypy_cache .ruff_cache .hypothesis
