# `make help` lists what there is. Everything runs in .venv, which is made from the pinned requirements on first use.

PYTHON ?= python3.11
# cpu or cuda: which of requirements/{cpu,cuda}.txt is installed.
DEVICE ?= cpu
BIN := .venv/bin
INSTALLED := .venv/installed-$(DEVICE)
PACKAGES := twhin_core twhin
# Files of tests run beside each other, each with one thread, since threads that wait for a core hold up the others.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help image run refresh-demo test test-all lint goldens docs clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/make \1|\2/' | column -t -s '|'

run: $(INSTALLED) ## run the whole pipeline on a generated network and print the results
	$(BIN)/twhin run configs/quickstart.yaml

refresh-demo: $(INSTALLED) ## refresh a series over three generated days, and print warm beside cold
	$(BIN)/python -m benchmarks.refresh_demo --folder runs/refresh-demo

image: ## build the image, with docker or else buildah; DEVICE=cuda for GPUs
	DEVICE=$(DEVICE) deploy/build_image.sh

test: $(INSTALLED) ## run the tests but the slow ones
	$(PYTEST) -m "not slow"

test-all: test ## run the slow tests too; the image needs Debian's buildah and mmdebstrap
	$(PYTEST) -m slow

lint: $(INSTALLED) ## check style, types and the Dockerfile
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(PACKAGES)
	$(BIN)/hadolint Dockerfile

goldens: $(INSTALLED) ## make the golden pipelines and losses in tests/golden anew
	$(BIN)/python -m tests.golden.renew

docs: $(INSTALLED) ## generate docs/{configuration,resources,scale}.md and configs/default.yaml
	$(BIN)/python docs/generate_configuration.py
	$(BIN)/python docs/generate_scale.py

clean: ## remove .venv and what the tools left; runs/ stays
	rm -rf .venv build .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info

# requirements/no_deps.txt says why these come last.
$(INSTALLED): $(wildcard requirements/*.txt) pyproject.toml
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --quiet -r requirements/$(DEVICE).txt -r requirements/dev.txt $(if $(filter cpu,$(DEVICE)),-r requirements/dev_cpu.txt)
	$(BIN)/pip install --quiet --no-deps -r requirements/no_deps.txt
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@
