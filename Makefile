# Everything a developer or a newcomer runs. `make demo` and `make test` need Python 3.11+, make and a network.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
MODELS := models/smollm2-135m/1/assets.extra/SHA256SUMS

.PHONY: help setup models demo test check format bench bench-rivals parity triton proto lock clean

help: ## say what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

setup: $(INSTALLED) ## create .venv with everything in it

$(INSTALLED): requirements.lock pyproject.toml deploy/setup/venv.sh
	sh deploy/setup/venv.sh "$(PYTHON)" "$(VENV)"
	touch $@

models: $(INSTALLED) ## fetch SmolLM2-135M-Instruct and export it as int8 and float32
	$(BIN)/python -m deploy.demo.models int8 float32

demo: $(INSTALLED) ## export the real model, serve it, stream a chat completion, print the latency
	$(BIN)/python -m deploy.demo.models int8
	$(BIN)/python -m deploy.demo.demo

test: models ## all tests but the benchmarks and the long parity run
	sh deploy/setup/chromium.sh
	$(BIN)/pytest tests --ignore=tests/bench --ignore=tests/parity --ignore=tests/triton --numprocesses 2 --dist loadfile

check: $(INSTALLED) ## format, lint, types, import rules, proto lint, generated code up to date, alert rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint proto
	$(BIN)/buf format --diff --exit-code proto
	$(BIN)/python proto/generate.py --check
	$(BIN)/python -m deploy.monitoring.check

format: $(INSTALLED) ## rewrite sources in the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/buf format --write proto

proto: $(INSTALLED) ## regenerate cadenza.v1 from the .proto files
	$(BIN)/python proto/generate.py

bench: models ## measure this machine and the engine on it
	$(BIN)/python -m tests.bench

bench-rivals: models ## other CPU engines beside it, same weights and prompts; installs them below .cache, 25 minutes
	$(BIN)/python -m tests.bench.rivals

parity: models ## compare with transformers (PyTorch) and long texts, in an environment of its own
	sh tests/parity/run.sh "$(PYTHON)"

triton: models ## run Triton's own client against the server, in an environment of its own
	sh tests/triton/run.sh "$(PYTHON)"

lock: $(INSTALLED) ## resolve requirements.lock anew
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 \
	    --generate-hashes --no-header --output-file requirements.lock --quiet
	echo 'tensorflow[and-cuda]' | $(BIN)/uv pip compile pyproject.toml - --extra server --extra tensorflow --extra load --extra tracing \
	    --constraint requirements.lock --python-version 3.11 --python-platform x86_64-manylinux_2_31 \
	    --generate-hashes --no-header --output-file deploy/image/cuda.lock --quiet
	printf 'tensorflow-tpu\nlibtpu<0.0.22\n' | $(BIN)/uv pip compile pyproject.toml - --extra server --extra load --extra tracing \
	    --constraint requirements.lock --python-version 3.11 --python-platform x86_64-manylinux_2_31 \
	    --generate-hashes --no-header --output-file deploy/image/tpu.lock --quiet

clean: ## remove everything that can be made again
	rm -rf $(VENV) .cache models build dist
