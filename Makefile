# Everything from git, make and python3 (3.11 or newer). PyTorch goes in first, by pip, at the pinned version: whatever
# asks for it afterwards is content with it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# One worker a core and one torch thread each; a file's tests stay in one worker, which makes what they share once.
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder
export HF_HUB_OFFLINE := 1

.PHONY: demo test test-all test-rest peer-tests bench lint clean

## demo: set up, then the paper's comparison on the bundled miniature (minutes, no network)
demo: $(VENV)/.demo
	$(BIN)/python -m multilora.miniature demo_run/miniature
	MINIATURE=demo_run/miniature $(BIN)/multilora compare recipes/miniature.yaml --out demo_run/comparison

## test: set up, then run the tests: every law, in a few minutes
test: $(VENV)/.test
	$(PYTEST)

## test-all: all cases of every law, and more examples of each property
test-all: $(VENV)/.test
	$(PYTEST) -m 'not gpu' --hypothesis-profile full

## test-rest: what test-all has and test leaves out
test-rest: $(VENV)/.test
	$(PYTEST) -m 'not gpu and (full or hypothesis)' --hypothesis-profile full

## peer-tests: PEFT's own tests of tuning methods, run on MultiLoRA
peer-tests: $(VENV)/.peer
	$(BIN)/python tests/peer/run.py

## bench: the benchmarks; best on a quiet machine
bench: $(VENV)/.demo
	$(BIN)/python -m benchmarks.layer
	$(BIN)/python -m benchmarks.training
	$(BIN)/python -m benchmarks.spectrum
	$(BIN)/python -m benchmarks.merge
	$(BIN)/python -m benchmarks.train_command

## lint: format, rules, types, and the order of the rooms
lint: $(VENV)/.lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) .peer-tests demo_run build

# One stamp per set of extras.
EXTRAS.demo := .[eval]
EXTRAS.test := .[test,eval,quantized]
EXTRAS.peer := .[test,eval,peer,quantized]
EXTRAS.lint := .[test,eval,lint,quantized]

$(VENV)/.%: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "multilora needs Python 3.11 or newer; set PYTHON=")'
	@test -x $(BIN)/python || { echo "Setting up $(VENV) (once; a few minutes)"; $(PYTHON) -m venv $(VENV); }
	$(PIP) torch
	$(PIP) --editable '$(EXTRAS.$*)'
	@touch $@
