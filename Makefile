# Every target sets up what it needs in .venv and is fast the second time. `make help` lists them.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
TRITON := .venv-triton
STAMP := $(VENV)/.installed
TRITON_STAMP := $(TRITON)/.installed
PEERS := .venv-peers
PEERS_STAMP := $(PEERS)/.installed
PLUGINS := .venv-plugins
PLUGINS_STAMP := $(PLUGINS)/.installed
STREAM_PEERS := .venv-stream-peers
STREAM_PEERS_STAMP := $(STREAM_PEERS)/.installed
AUDIT := .venv-audit
AUDIT_STAMP := $(AUDIT)/.installed
PIP := -m pip --disable-pip-version-check
# Models come from disk; nothing is asked of a hub.
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.DEFAULT_GOAL := help
.PHONY: help demo try-litellm platform test circle lint types audit docs reference format faults soak bench bench-stream bench-end-to-end bench-latency bench-serving bench-gpu bench-styles bench-verifier bench-compounds bench-vignettes bench-peers clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) > /dev/null || { echo "Python 3.11 is needed: set PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP) install --quiet --upgrade "pip>=24"
	@echo "Installing (minutes the first time: PyTorch is large) ..."
	$(BIN)/python $(PIP) install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

# The bundled tritonserver's Python backend wants numpy<2, so its environment is its own.
$(TRITON_STAMP): deploy/triton/requirements.txt
	test -x $(TRITON)/bin/python || $(PYTHON) -m venv $(TRITON)
	$(TRITON)/bin/python $(PIP) install --quiet --upgrade "pip>=24"
	$(TRITON)/bin/python $(PIP) install --quiet --requirement deploy/triton/requirements.txt
	@touch $@

# LiteLLM's newest release wants other versions of the shared libraries than the rest.
$(PLUGINS_STAMP): pyproject.toml tests/producers/requirements.txt
	test -x $(PLUGINS)/bin/python || $(PYTHON) -m venv $(PLUGINS)
	$(PLUGINS)/bin/python $(PIP) install --quiet --upgrade "pip>=24"
	$(PLUGINS)/bin/python $(PIP) install --quiet --requirement tests/producers/requirements.txt --editable ".[litellm]"
	@touch $@

# SetFit wants other versions of the shared libraries.
$(PEERS_STAMP): tests/benchmarks/peers/requirements.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python $(PIP) install --quiet --upgrade "pip>=24"
	$(PEERS)/bin/python $(PIP) install --quiet --requirement tests/benchmarks/peers/requirements.txt
	@touch $@

# What other stream processors want is theirs alone.
$(STREAM_PEERS_STAMP): tests/benchmarks/stream_peers/requirements.txt
	test -x $(STREAM_PEERS)/bin/python || $(PYTHON) -m venv $(STREAM_PEERS)
	$(STREAM_PEERS)/bin/python $(PIP) install --quiet --upgrade "pip>=24"
	$(STREAM_PEERS)/bin/python $(PIP) install --quiet --requirement tests/benchmarks/stream_peers/requirements.txt
	@touch $@

demo: $(STAMP) ## Train a model if there is none, then screen 320 LLM answers and end
	$(BIN)/guardline demo --once

try-litellm: $(STAMP) ## From a clean folder: install with LiteLLM, five lines of code, a wrong dose becomes a flag
	$(BIN)/python -m tests.producers.first_afternoon

platform: $(STAMP) $(TRITON_STAMP) ## Start everything on this machine with TLS, passwords and ACLs, use it, end it (ARGS=--keep: stay)
	@sh deploy/test-services.sh
	$(BIN)/python -m tests.platform $(ARGS)

test: $(STAMP) $(TRITON_STAMP) $(PLUGINS_STAMP) ## Run all tests against real Redis, Triton and Kafka
	@sh deploy/test-services.sh
	$(BIN)/python -m pytest

circle: $(STAMP) $(TRITON_STAMP) ## From a flag over reviewers' decisions to a new champion, with every part real (two minutes)
	@sh deploy/test-services.sh
	$(BIN)/python -m pytest -q -s -m circle tests/e2e/test_circle.py

lint: $(STAMP) ## Check style, formatting and import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(STAMP) ## Check types strictly
	$(BIN)/mypy

docs: $(STAMP) ## Build the documentation site into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "build/site/index.html"

reference: $(STAMP) ## Write again what is made from the code: reference pages, rules for the Prometheus operator
	$(BIN)/python docs/reference/generate.py
	$(BIN)/python deploy/prometheus/operator.py

# The audit's tools want other versions of shared libraries.
$(AUDIT_STAMP): deploy/audit/requirements.txt
	test -x $(AUDIT)/bin/python || $(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python $(PIP) install --quiet --upgrade "pip>=24"
	$(AUDIT)/bin/python $(PIP) install --quiet --requirement deploy/audit/requirements.txt
	@touch $@

audit: $(STAMP) $(AUDIT_STAMP) ## Ask PyPI for known vulnerabilities of all dependencies, and write an SBOM to build/
	$(BIN)/python deploy/audit/audit.py $(BIN)/python --tools $(AUDIT)/bin --output build

format: $(STAMP) ## Rewrite the code in its one format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## Measure the path from text to verdict: planned batches against arrival order
	$(BIN)/python -m tests.benchmarks.batching

faults: $(STAMP) $(TRITON_STAMP) ## Kill, stop and break everything, and account for every input (under 20 minutes)
	@sh deploy/test-services.sh
	$(BIN)/python -m tests.faults

bench-stream: $(STAMP) $(STREAM_PEERS_STAMP) ## CPU per message: aiokafka, Quix Streams, stock Faust, ours
	$(BIN)/python -m tests.benchmarks.stream

bench-end-to-end: $(STAMP) ## Statements per second through the whole monitor against the bare models
	$(BIN)/python -m tests.benchmarks.end_to_end

bench-latency: $(STAMP) ## Latency at 25, 50 and 75% of capacity, with a plot
	$(BIN)/python -m tests.benchmarks.latency

bench-serving: $(STAMP) $(TRITON_STAMP) ## Batching, fusion, eight bits and Triton, as fractions of the GEMM peak
	$(BIN)/python -m tests.benchmarks.serving

bench-gpu: $(STAMP) ## The same products on one NVIDIA GPU: padded, grouped, unpadded, CUDA graphs, a training step
	$(BIN)/python tests/benchmarks/gpu.py

soak: $(STAMP) ## Ten minutes of steady load: memory and a count of every input
	$(BIN)/python -m tests.benchmarks.soak --minutes 10

bench-styles: $(STAMP) ## Leave styles out: frozen, cross-entropy, SupCon, recommendation-aware SupCon (an hour)
	$(BIN)/python -m tests.benchmarks.leave_one_style_out

bench-verifier: $(STAMP) ## Verifiers from several starts on one run: BASES="--base ships --base PATH" (a quarter of an hour each)
	$(BIN)/python -m tests.benchmarks.verifier_starts --run runs/covid19-remdesivir $(BASES)

bench-compounds: $(STAMP) ## Two rules in one sentence against one, by the package that ships
	$(BIN)/python -m tests.benchmarks.compounds

bench-vignettes: $(STAMP) ## How many numeric vignettes belong in training
	$(BIN)/python -m tests.benchmarks.vignette_ratio

bench-peers: $(STAMP) $(PEERS_STAMP) ## Contrastive training beside SetFit and sentence-transformers
	$(BIN)/python -m tests.benchmarks.contrastive_peers --python $(PEERS)/bin/python

clean: ## Remove environments, caches and build results (run folders stay)
	rm -rf $(VENV) $(TRITON) $(PLUGINS) $(PEERS) $(AUDIT) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
