# What there is to do here. `make run` and `make test` set everything up by themselves.

PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin

# uv where it is installed; otherwise one of our own, brought by pip into a folder of its own.
UV := $(shell command -v uv 2>/dev/null || echo .venv-uv/bin/uv)
SYNC = UV_PROJECT_ENVIRONMENT=$(VENV) UV_PYTHON_DOWNLOADS=never $(UV) sync --quiet --locked --all-packages --all-extras --python $(PYTHON)

.DEFAULT_GOAL := help
.PHONY: help setup soak run split test lint format bench bench-kafka clean

help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  PYTHON=python3.13 VENV=.venv-3.13 make test   uses another Python; FISSILE_PORT=9000 make run   another port"

setup: $(VENV)/.complete ## Make the virtual environment

$(VENV)/.complete: pyproject.toml uv.lock $(wildcard modules/*/pyproject.toml) | $(UV)
	@echo "Setting up $(VENV) …" >&2
	@$(SYNC)
	@touch $@

.venv-uv/bin/uv:
	@echo "uv is not installed; bringing one into .venv-uv with pip …" >&2
	@$(PYTHON) -m venv .venv-uv || { echo "'$(PYTHON) -m venv' does not work here. On Debian and Ubuntu: apt-get install python3-venv. Or install uv." >&2; exit 1; }
	@.venv-uv/bin/python -m pip install --quiet --disable-pip-version-check uv

run: setup ## Start the application in one process, with reload
	@$(BIN)/fissile dev

split: setup ## Start it in several processes, with a broker and with reload
	@$(BIN)/fissile dev --split

test: setup ## Run the tests
	@$(BIN)/python -m pytest $(ARGS)

lint: setup ## Check style, types and the boundaries of modules
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/fissile check

format: setup ## Format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

soak: setup ## Run the long tests: faults on Apache Kafka and many seeds (minutes)
	@FISSILE_REQUIRE=$${FISSILE_REQUIRE:-kafka,postgres,docker,languages} FISSILE_TEST_SCALE=10 FISSILE_TEST_SOAK=1 FISSILE_TEST_SEEDS=500 $(BIN)/python -m pytest -s tests/faults tests/placements tests/transports tests/crashes tests/sagas tests/modules/submissions $(foreach part,host_side pool docker languages engine_faults over_http,tests/modules/code_executor/test_$(part).py) tests/playground tests/gateway/test_memory.py tests/gateway/test_schemathesis.py $(ARGS)

bench-kafka: setup ## Measure it over Kafka, on the embedded broker and on Apache Kafka, and put the figures into README.md
	@$(BIN)/python -m benchmarks kafka $(ARGS); done=$$?; \
	if [ -z "$(ARGS)" ]; then $(BIN)/python -m benchmarks.readme; fi; exit $$done

bench: setup ## Measure speed against the floors of the same run
	@$(BIN)/python -m benchmarks $(ARGS)

clean: ## Remove what the other commands have made
	rm -rf .venv .venv-* .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist data
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
