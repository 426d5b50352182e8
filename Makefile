# make demo       embed, fine-tune, predict, report and annotate on real DNA (about 4 minutes on 2 cores)
# make test       lint, types, tests, goldens
# make test-slow  the tests marked slow
# make test-gpu   the tests marked gpu with an interpreter of yours: make test-gpu PYTHON=/path/to/python
# make lint       ruff and mypy only
# make bench      timings beside named peers into benchmarks/results/; ONLY=name runs one
# make docs       the site, into site/
#
# Each target makes .venv by itself when it is missing or older than what it is made from.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-gpu lint bench docs env

PYTHON ?= python3
BIN := .venv/bin
PIP := -m pip --disable-pip-version-check install --quiet -c constraints.txt
STAMP := .venv/.installed
PEERS_STAMP := .venv-peers/.installed

SHARED_GOLDENS := $(wildcard $(addprefix ../shared/goldens/,borzoi caduceus enformer hyenadna llama nt segment xlstm \
	$(addprefix dnabert/,alibi_* encoder_* mlm_* seqcls_* tokenizer.safetensors)))

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

env: $(STAMP)

$(STAMP): pyproject.toml constraints.txt requirements-hashed.txt
	@echo "installing into .venv (a few minutes the first time)" >&2
	$(PYTHON) -m venv .venv
	$(BIN)/python $(PIP) hatchling editables
	$(BIN)/python $(PIP) --no-deps --require-hashes -r requirements-hashed.txt
	$(BIN)/python $(PIP) --no-build-isolation --editable '.[dev]'
	@touch $@

$(PEERS_STAMP): benchmarks/peers.txt benchmarks/peers-no-deps.txt constraints.txt
	@echo "installing the benchmark peers into .venv-peers" >&2
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python $(PIP) -r benchmarks/peers.txt
	.venv-peers/bin/python $(PIP) --no-deps -r benchmarks/peers-no-deps.txt
	@touch $@

demo: $(STAMP)
	@$(BIN)/python examples/demo.py $(DEMO_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Everything runs even if an earlier part fails; pytest comes last so that its summary is the last thing printed.
test: $(STAMP)
	@failed=0; \
	$(BIN)/ruff check . || failed=1; \
	$(BIN)/ruff format --check . || failed=1; \
	$(BIN)/mypy || failed=1; \
	$(BIN)/python tests/goldens/check.py tests/goldens/data $(SHARED_GOLDENS) || failed=1; \
	$(BIN)/python -m pytest -rs || failed=1; \
	exit $$failed

test-slow: $(STAMP)
	$(BIN)/python -m pytest -rs -m slow

# Builds no environment: any interpreter with torch >= 2.10, triton, numpy, safetensors, tokenizers and pytest.
test-gpu:
	PYTHONPATH=src $(PYTHON) -m pytest -rs -m gpu

bench: $(STAMP) $(PEERS_STAMP)
	$(BIN)/python benchmarks/run.py --peers .venv-peers/bin/python $(if $(ONLY),--only $(ONLY))

docs: $(STAMP)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html"
