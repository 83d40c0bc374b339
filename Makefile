# Each target builds .venv from nothing with the tested versions of .ci/constraints.txt, and is quick
# when it stands. PYTHON chooses the interpreter: make test PYTHON=python3.11
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# two workers; the tests of a file stay together, and files come in the order of tests/conftest.py
PYTEST := $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder
# threads that wait sleep: busy ones make several processes on few cores ten times slower
export OMP_WAIT_POLICY = PASSIVE
export HF_HUB_DISABLE_TELEMETRY = 1
export HF_HUB_OFFLINE = 1
export TOKENIZERS_PARALLELISM = false
# DeepSpeed compiles nothing as it is installed; the tests need none of its operations
export DS_BUILD_OPS = 0

.PHONY: demo test long check benchmark clean

demo: $(VENV)/.ready
	$(BIN)/hf-proxy demo

test: $(VENV)/.ready
	$(PYTEST) -m "not long"

# longer forms of what test checks
long: $(VENV)/.ready
	$(BIN)/python -m pytest -q -n 2 --dist loadgroup -m "long or hypothesis" --hypothesis-profile=long

check: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/types && mkdir -p build/types
	cp -r hf_proxy build/types/ && cp -r callbacks recipes build/types/hf_proxy/
	$(BIN)/mypy
	$(PYTEST)

# needs MODELS (folders) and TRACES (a trace set)
benchmark: $(VENV)/.ready
	$(BIN)/pip install -q -c .ci/constraints.txt -e '.[bench]'
	$(BIN)/python tests/benchmarks/scoring.py --models $(MODELS) --traces $(TRACES)

$(VENV)/.ready: pyproject.toml .ci/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -c .ci/constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
