# One command for each thing to do. Every target that needs Python makes .venv itself when it is missing.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
<<<<<<< HEAD
MARKS ?= not services and not models and not mlflow and not story and not harness
=======
MARKS ?= not services and not models and not mlflow and not story and not console
>>>>>>> console
# Tests of `make test` run in so many processes, of one thread each.
WORKERS ?= 2

export SOFTPROMPT_DATA ?= $(abspath ../shared/data)

<<<<<<< HEAD
.PHONY: setup demo test test-all lint format docs bench soak test-services models test-models test-mlflow test-story test-harness \
=======
.PHONY: setup demo test test-all lint format docs bench soak test-services models test-models test-mlflow test-console test-story \
>>>>>>> console
	masked-small clean

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
<<<<<<< HEAD
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m "$(MARKS)" --ignore=tests/services --ignore=tests/real_models --ignore=tests/tracked --ignore=tests/story --ignore=tests/harness
=======
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m "$(MARKS)" --ignore=tests/services --ignore=tests/real_models --ignore=tests/tracked --ignore=tests/story --ignore=tests/console
>>>>>>> console

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
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

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

<<<<<<< HEAD
# Harnesses that judge a served prompt have an environment of their own likewise.
HARNESS := .venv-harness

$(HARNESS)/.ready: $(READY)
	$(PYTHON) -m venv $(HARNESS)
	$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' > $(HARNESS)/usual.pth
	mv $(HARNESS)/usual.pth $$($(HARNESS)/bin/python -c 'import site; print(site.getsitepackages()[0])')/usual.pth
	$(HARNESS)/bin/python -m pip install --quiet --disable-pip-version-check 'lm-eval[api]==0.4.13' 'inspect-ai==0.3.285'
	@touch $(HARNESS)/.ready

test-harness: $(HARNESS)/.ready
	PYTHONPATH=src $(HARNESS)/bin/python -m pytest tests/harness -m harness
=======
# The console in a real Chromium, with Playwright in an environment of its own. Screenshots are left in build/console/.
CONSOLE := .venv-console
CHROMIUM ?= $(shell command -v chromium)
AXE := build/console/axe.min.js

$(CONSOLE)/.ready: $(READY)
	$(PYTHON) -m venv $(CONSOLE)
	$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' > $(CONSOLE)/usual.pth
	mv $(CONSOLE)/usual.pth $$($(CONSOLE)/bin/python -c 'import site; print(site.getsitepackages()[0])')/usual.pth
	$(CONSOLE)/bin/python -m pip install --quiet --disable-pip-version-check 'playwright>=1.50'
	@touch $(CONSOLE)/.ready

$(AXE):
	@mkdir -p $(@D)
	npm pack --silent --pack-destination $(@D) axe-core@4.14.1
	tar -xzf $(@D)/axe-core-4.14.1.tgz -C $(@D) --strip-components=1 package/axe.min.js

test-console: $(CONSOLE)/.ready $(AXE)
	@test -n "$(CHROMIUM)" || { echo "chromium is needed; install Debian's package chromium, or call: make CHROMIUM=PATH test-console"; exit 1; }
	OMP_NUM_THREADS=1 PYTHONPATH=src CHROMIUM=$(CHROMIUM) $(CONSOLE)/bin/python -m pytest tests/console -m console
>>>>>>> console

# The whole life of prompts: PostgreSQL, S3 and Redis, a server, its worker and commands that are killed.
test-story: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/story -m story

# One after the other; `make models` comes before.
test-all: setup
	$(MAKE) test
	$(MAKE) test-services
	$(MAKE) test-models
	$(MAKE) test-mlflow
<<<<<<< HEAD
	$(MAKE) test-harness
	$(MAKE) test-story

clean:
	rm -rf .venv $(MLFLOW) $(HARNESS) demo-home
=======
	$(MAKE) test-console
	$(MAKE) test-story

clean:
	rm -rf .venv $(MLFLOW) $(CONSOLE) demo-home
>>>>>>> console
