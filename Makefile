# `make` lists what there is. `make test` and `make demo` need nothing but python3 (3.11 or newer), make and pip.
#
# Everything runs in a virtual environment of its own ($(VENV)), made when it is missing and updated when setup.cfg or
# pyproject.toml changes. Results go to $(RUNS).

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV ?= .venv
RUNS ?= runs
WORKERS ?= 2
ARGS ?=
FRESH ?=
SIMULATE ?= --seed 0

PY := $(VENV)/bin/python
# Twice quiet: no warnings, errors in full.
PIP_INSTALL := $(PY) -m pip install -qq --disable-pip-version-check --no-input
PACKAGING := setup.cfg pyproject.toml
DEMO := $(RUNS)/demo
DEMO_DATA := $(RUNS)/demo_data
DEMO_RECORDS := $(RUNS)/demo_records
DEMO_CELL := alpha
DEMO_TABLES := $(DEMO_DATA)/prepared/$(DEMO_CELL)

START := $(shell date +%s)
SAY = printf '==> [%4d s] %s\n' "$$(( $$(date +%s) - $(START) ))"

export PYTHONUNBUFFERED = 1

# Compiles small programs twice as fast and runs them slower: for tests, where jaxlib knows it.
QUICK_COMPILATION := --xla_cpu_use_fusion_emitters=false

.PHONY: help test lint format demo parity bench soak clean clean-venv fresh-demo

help: ## List the commands
	@printf 'usage: make COMMAND [PYTHON=python3.12] [VENV=.venv] [RUNS=runs]\n\n'
	@grep -E '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:.*## /\t/' | expand -t 14 | sed 's/^/  /'

test: $(VENV)/.installed-dev ## Install, check the style, run all tests (ARGS='-k name' for some, WORKERS=4)
	@$(SAY) 'ruff check'
	@$(PY) -m ruff check .
	@$(SAY) 'ruff format --check'
	@$(PY) -m ruff format --check .
	@mkdir -p $(RUNS)/test
	@$(SAY) 'pytest, $(WORKERS) workers'
	@if XLA_FLAGS=$(QUICK_COMPILATION) $(PY) -c 'import jax; jax.devices("cpu")' > /dev/null 2>&1; then \
	  export XLA_FLAGS=$${XLA_FLAGS-$(QUICK_COMPILATION)}; fi; \
	EPINFORMER_CHECK_TREE=1 $(PY) -m pytest -n $(WORKERS) --dist loadfile --durations 10 \
	  --junitxml $(RUNS)/test/junit.xml $(ARGS) 2>&1 | tee $(RUNS)/test/pytest.log
	@$(SAY) 'make test passed; log: $(RUNS)/test/pytest.log, report: $(RUNS)/test/junit.xml'

lint: $(VENV)/.installed-dev ## Check the style only
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

format: $(VENV)/.installed-dev ## Mend the style
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

demo: fresh-demo $(VENV)/.installed-genomics $(DEMO_RECORDS)/manifest.json ## Simulate a genome, prepare, train, evaluate, report (FRESH=1 starts over; SIMULATE='--genes-per-chromosome 1260')
	@$(SAY) 'train and evaluate two folds (goes on where an earlier run stopped)'
	@$(PY) -m epinformer_jax.main --config configs/demo.py --workdir $(DEMO) \
	  --config.data.folds=$(DEMO_DATA)/folds.tsv \
	  --config.data.genes=$(DEMO_RECORDS)/genes --config.data.windows=$(DEMO_RECORDS)/windows \
	  --config.data.ceiling=$(DEMO_DATA)/truth/$(DEMO_CELL)/truth.json
	@for made in $(DEMO)/report.html $(DEMO)/metrics.json; do \
	  test -s "$$made" || { echo "error: $$made was not made" >&2; exit 1; }; done
	@$(SAY) 'make demo is done'
	@printf '%s\n' 'report:  $(DEMO)/report.html' 'metrics: $(DEMO)/metrics.json'

parity: $(VENV)/.installed-parity ## Compare with PyTorch and TensorFlow (installs both, about 2 GB)
	@mkdir -p $(RUNS)/parity
	@$(SAY) 'pytest -m parity'
	@$(PY) -m pytest -m parity -n $(WORKERS) --dist loadfile --durations 10 \
	  --junitxml $(RUNS)/parity/junit.xml $(ARGS) 2>&1 | tee $(RUNS)/parity/pytest.log
	@$(SAY) 'make parity passed; log: $(RUNS)/parity/pytest.log, report: $(RUNS)/parity/junit.xml'

bench: $(VENV)/.installed-parity ## Measure speed against the PyTorch reference
	@$(SAY) 'benchmarks'
	@$(PY) -m tests.benchmarks $(ARGS)
	@$(SAY) 'make bench is done'

soak: $(VENV)/.installed-dev ## Run the long fault and endurance tests
	@mkdir -p $(RUNS)/soak
	@$(SAY) 'pytest -m soak'
	@$(PY) -m pytest -m soak --timeout 3600 --junitxml $(RUNS)/soak/junit.xml $(ARGS) 2>&1 | tee $(RUNS)/soak/pytest.log
	@$(SAY) 'make soak passed; log: $(RUNS)/soak/pytest.log, report: $(RUNS)/soak/junit.xml'

clean: ## Remove test results, the demo and caches (keeps $(VENV) and other runs)
	rm -rf $(DEMO) $(DEMO_DATA) $(DEMO_RECORDS) $(RUNS)/test $(RUNS)/parity $(RUNS)/soak build *.egg-info .pytest_cache .ruff_cache
	find epinformer_jax data_prep configs tests -name __pycache__ -type d -prune -exec rm -rf {} +

clean-venv: ## Remove the virtual environment
	@test ! -e $(VENV) || test -e $(VENV)/pyvenv.cfg || { echo 'error: $(VENV) is no virtual environment' >&2; exit 1; }
	rm -rf $(VENV)

fresh-demo:
	@$(if $(FRESH),rm -rf $(DEMO) $(DEMO_DATA) $(DEMO_RECORDS),:)

# Environment. Debian's python3 may come without ensurepip: then the pip outside puts one into the environment.
$(VENV)/.created:
	@$(SAY) 'make the virtual environment $(VENV)'
	@command -v $(PYTHON) > /dev/null || { \
	  echo "error: there is no $(PYTHON) here; install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3" >&2; \
	  exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) --version 2>&1); try make PYTHON=python3.12" >&2; \
	  exit 1; }
	@if $(PYTHON) -c 'import ensurepip' 2> /dev/null; then $(PYTHON) -m venv $(VENV); else \
	  $(PYTHON) -m venv --without-pip $(VENV) && \
	  $(PYTHON) -m pip --python $(PY) install -qq --disable-pip-version-check --no-input pip; fi
	@touch $@

# The dev extra contains the genomics extra, so one install serves both.
$(VENV)/.installed-genomics: $(PACKAGING) | $(VENV)/.created
	@$(SAY) 'install epinformer_jax[genomics] (about a minute the first time)'
	@$(PIP_INSTALL) -e '.[genomics]'
	@touch $@

$(VENV)/.installed-dev: $(PACKAGING) | $(VENV)/.created
	@$(SAY) 'install epinformer_jax[dev] (about a minute the first time)'
	@$(PIP_INSTALL) -e '.[dev]'
	@touch $(VENV)/.installed-genomics $@

$(VENV)/.installed-parity: $(VENV)/.installed-dev
	@$(SAY) 'install torch and TensorFlow'
	@$(PIP_INSTALL) -e '.[dev,tf]' torch==2.13.0
	@touch $@

# Both commands write a folder that appears whole, with its manifest, or not at all.
$(DEMO_DATA)/manifest.json: | $(VENV)/.installed-genomics
	@$(SAY) 'simulate a genome with genes, enhancers and reads'
	@$(PY) -m data_prep simulate --out $(DEMO_DATA) $(SIMULATE)

$(DEMO_RECORDS)/manifest.json: | $(DEMO_DATA)/manifest.json
	@$(SAY) 'write genes and windows of cell type $(DEMO_CELL) as TFRECORD datasets'
	@$(PY) -m data_prep build --fasta $(DEMO_DATA)/genome.fa --genes $(DEMO_TABLES)/genes.tsv \
	  --links $(DEMO_TABLES)/links.tsv --windows $(DEMO_TABLES)/windows.tsv --out $(DEMO_RECORDS) \
	  --window-bp 256 --promoter-bp 256 --max-elements 40
