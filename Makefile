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
.PHONY: help image run refresh-demo test test-all fuzz lint goldens docs hashes sbom clean

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

fuzz: $(INSTALLED) ## run the tests of drawn inputs on others than `make test-all` draws
	$(PYTEST) -m hypothesis --hypothesis-profile fuzz

lint: $(INSTALLED) ## check style, types, the Dockerfile and, where it can be reached, the list of vulnerabilities
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(PACKAGES)
	$(BIN)/hadolint Dockerfile
	requirements/audit.sh $(BIN)

goldens: $(INSTALLED) ## make the golden pipelines and losses in tests/golden anew
	$(BIN)/python -m tests.golden.renew

docs: $(INSTALLED) ## generate docs/{configuration,resources,scale}.md and configs/default.yaml
	$(BIN)/python docs/generate_configuration.py
	$(BIN)/python docs/generate_scale.py

hashes: ## write requirements/hashed/, which installing then insists on; DEVICE=cuda for GPUs
	$(PYTHON) requirements/hashed.py write $(DEVICE)
	$(PYTHON) requirements/hashed.py write $(DEVICE) dev
	$(PYTHON) requirements/hashed.py write audit

sbom: $(INSTALLED) ## list what .venv holds in build/: sbom.cdx.json (CycloneDX) and licenses.csv; the image has its own
	requirements/sbom.sh $(BIN) $(BIN)/python build

clean: ## remove .venv and what the tools left; runs/ stays
	rm -rf .venv build .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info

$(INSTALLED): $(wildcard requirements/*.txt requirements/hashed/*.txt) pyproject.toml
	$(PYTHON) -m venv --clear .venv
	requirements/install.sh $(BIN)/python $(DEVICE) dev
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@
