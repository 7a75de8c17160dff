# Everything a checkout needs: `make demo` sets up and runs the embedded experiment, `make test` checks all.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
RUN := demo
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq install --no-deps

.PHONY: demo test test-gpu bench format clean
.DELETE_ON_ERROR:

demo: $(READY)
	$(BIN)/amplify run configs/demo.yaml --out runs/$(RUN)

test: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist worksteal

# In the environment that is active: the one above is for machines without a GPU. `pip install -e .[gpu,dev]` makes one.
test-gpu:
	AMPLIFY_NEEDS_GPU=1 python3 -m pytest tests/gpu

bench: $(READY)
	$(BIN)/amplify bench all

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The stamp comes last, so an interrupted set-up is done again. `--no-deps` with a full lock file keeps torchvision,
# torchaudio and torchcodec out: their ordinary builds are CUDA builds and break `import transformers` on a CPU.
# Where pip finds only the CUDA build of torch, that build needs its libraries to be imported even without a GPU; then,
# and only then, they are installed too.
$(READY): requirements.lock pyproject.toml
	@rm -f $@
	@command -v python3.11 >/dev/null || { echo "make: python3.11 was not found; install Python 3.11 and put it on the PATH" >&2; exit 1; }
	@test -x $(BIN)/python && $(BIN)/python -m pip --version >/dev/null 2>&1 || { rm -rf $(VENV) && python3.11 -m venv $(VENV); }
	@echo "setting up $(VENV) (about two minutes)"
	@$(PIP) -r requirements.lock
	@$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/python -m pip install -qq "$$(grep '^torch==' requirements.lock)"
	@$(PIP) --no-build-isolation -e .
	@$(BIN)/python -c "import torch, transformers, trl, vllm" >/dev/null 2>$(VENV)/import.log || { cat $(VENV)/import.log; echo "make: the environment does not import; remove $(VENV) and run again" >&2; exit 1; }
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
