# make demo   set everything up, build the bundles of digits and scenes, draw both, engine against eager time
# make test   set everything up, lint, check types, run every test that needs no GPU
# make test-cpus  run the numerical tests with the kernels of other CPUs and on one and two threads: a table, an hour or two
# make test-runtimes   run the tests of the engines on the oldest, pinned and newest ONNX Runtime and onnx packages
# make test-packages   build wheel and sdist, install each outside the checkout on Python 3.11, 3.12 and 3.13 (those installed), and use it there
# make cpp    build the C++ runtime and its programs in build/cpp/release and run its tests (see runtime/cpp/README.md)
# make cuda   compile the CUDA kernels and half precision's operators for every architecture that this nvcc knows;
#             ONNXRUNTIME_INCLUDE=DIR: with these C++ headers of ONNX Runtime, not Debian's
# make docs   build the documentation site in build/site/html; a broken link or anchor is an error
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
DIGITS := himar/himar/weights/digits.safetensors
VAE    := himar/himar/weights/digits-vae.safetensors
SCENES := himar/himar/weights/scenes

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-cpus test-runtimes test-packages cpp cuda docs lint types format clean

help:
	@sed -n 's/^# make/make/p' Makefile

# Re-installed only when what it depends on changes.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

setup: $(VENV)/.installed

demo: setup
	rm -rf demo
	mkdir -p demo
	$(BIN)/himar-export build $(DIGITS) --config digits --vae $(VAE) --out demo/digits
	$(BIN)/himar-export verify demo/digits
	$(BIN)/himar-export generate demo/digits --labels 0-9 --count 10 --seed 7 --out demo/digits.png
	$(BIN)/himar-export build $(SCENES)/scenes.safetensors --vae $(SCENES)/scenes-vae.safetensors --text $(SCENES)/scenes-text --out demo/scenes
	$(BIN)/himar-export generate demo/scenes --prompts-file examples/scenes.txt --count 8 --seed 7 --out demo/scenes.png
	$(BIN)/himar-export bench demo/digits --checkpoint $(DIGITS) --vae $(VAE) --batch 1 --batch 16 --repeats 12

test: setup lint types
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadscope --no-loadscope-reorder --durations 10

test-cpus: setup
	$(BIN)/python -m tests.run_on_cpus -- --numprocesses $$(( ($$(nproc) + 1) / 2 )) --dist loadscope

# Needs a package index; for a schedule or before a release, not for every change.
test-runtimes: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.run_on_runtimes

# Needs a package index and one of python3.11, python3.12 and python3.13; for a schedule or before a release.
test-packages: setup
	$(BIN)/python -m tests.run_on_packages

cpp: setup
	runtime/cpp/scripts/get-dependencies.sh build/cpp-deps $(BIN)/python
	cd runtime/cpp && cmake --preset release && cmake --build --preset release --parallel $$(nproc) && ctest --preset release

cuda: setup
	$(BIN)/python -m himar_kernels.build.cuda
	[ -n "$(ONNXRUNTIME_INCLUDE)" ] || runtime/cpp/scripts/get-dependencies.sh build/cpp-deps $(BIN)/python
	$(BIN)/python -m himar_kernels.build.fused --onnxruntime $(or $(ONNXRUNTIME_INCLUDE),build/cpp-deps/include/onnxruntime)

docs: setup
	$(BIN)/python -m docs.site

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf demo build $(VENV) .mypy_cache .pytest_cache .ruff_cache *.egg-info
