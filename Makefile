# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# Needs Python 3.10 or newer (PYTHON=...) and make; everything else goes into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help install demo demo-co2s demo-semiearth demo-teachers test lint coverage docs matrix versions clean

help:
	@echo 'make install  .venv with the tested versions and this package (editable)'
	@echo 'make demo     train, evaluate and draw on fabricated aerial scenes, on the CPU'
	@echo 'make demo-co2s the same with two students that start from CLIP and DINOv2 and teach each other'
	@echo 'make demo-semiearth the same with pseudo labels that a small CLIP purifies'
	@echo 'make demo-teachers train the stand-ins for DINOv2 and CLIP again (within an hour)'
	@echo 'make test     linters, types and all tests'
	@echo 'make lint     linters, types and spelling'
	@echo 'make coverage which lines the tests reach, in htmlcov'
	@echo 'make docs     the site, in site'
	@echo 'make matrix   the tests under four sets of versions, in environments of their own'
	@echo 'make versions what is installed in .venv'
	@echo 'make clean    remove .venv and caches'

install: $(STAMP)

# mmcv-lite asks for opencv-python, whose GUI needs libGL; a bare server gets the same release
# without GUI instead.
$(STAMP): setup.py pyproject.toml requirements/constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=/path/to/python3")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --no-input --progress-bar off -q -c requirements/constraints.txt -e '.[mmlab,vlm,regions,geo,onnx,weights,dev]'
	$(BIN)/python -c 'import cv2' 2>/dev/null || { \
	  echo 'opencv-python does not load here (no libGL): taking opencv-python-headless'; \
	  $(BIN)/python -m pip uninstall --no-input -q -y opencv-python; \
	  $(BIN)/python -m pip install --no-input --progress-bar off -q --no-deps -c requirements/constraints.txt opencv-python-headless; }
	@$(MAKE) --no-print-directory versions-of-venv
	@touch $(STAMP)

.PHONY: versions-of-venv
versions-of-venv:
	@$(BIN)/python -V
	@$(BIN)/python -m pip freeze --exclude-editable | grep -iE '^(torch|torchvision|mm[a-z-]+|open_clip_torch|timm|transformers|rasterio|fiona|onnx|onnxruntime|numpy|opencv[a-z-]*|pytest|ruff|mypy)=='

versions: $(STAMP) versions-of-venv

demo: $(STAMP)
	$(BIN)/python tools/demo.py

demo-co2s: $(STAMP)
	$(BIN)/python tools/demo.py --methods supervised co2s-supervised co2s co2s-all --out work_dirs/demo_co2s

demo-semiearth: $(STAMP)
	$(BIN)/python tools/demo.py --methods supervised fixmatch semiearth all --out work_dirs/demo_semiearth

demo-teachers: $(STAMP)
	$(BIN)/python tools/make_demo_teachers.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tools/demo.py  # whose name is that of the folder beside it
	$(BIN)/codespell

# One thread per worker: the networks are tiny, and more threads than cores only wait for each other.
test: lint
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations 15 -m "not faults"

# Tools that a test starts as processes of their own are not counted.
coverage: $(STAMP)
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --cov --cov-report term:skip-covered --cov-report html

docs: $(STAMP)
	$(BIN)/python -m pip install --no-input --progress-bar off -q -c requirements/constraints.txt -e '.[docs]'
	$(BIN)/mkdocs build --strict

# Takes hours: the cell mmcv compiles. One cell: tools/version_matrix.sh oldest
matrix:
	PYTHON=$(PYTHON) tools/version_matrix.sh -n $(WORKERS)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build site htmlcov .coverage *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
