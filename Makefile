# make demo: install into .venv and run DPU, RPU and full updating on the bundled digits.
# make test: install into .venv and run every test.  make fast: leave the slow tests out.  make oldest: the oldest
# versions of what is required.
PYTHON ?= python3
BIN := .venv/bin
DEMO_FLAGS := --dataset digits --hidden_sizes 128 128 --seed 1 --output_dir runs/demo

.PHONY: demo test fast oldest bench bench-gpu clean

demo: .venv/.installed
	$(BIN)/python multiround_dpu.py --mode dpu --updating_ratio 0.02 --num_epochs 30 $(DEMO_FLAGS)
	@echo
	$(BIN)/python multiround_rpu.py --mode rpu --updating_ratio 0.02 --num_epochs 60 $(DEMO_FLAGS)
	@echo
	$(BIN)/python multiround_fu.py --mode same_init --num_epochs 60 $(DEMO_FLAGS)
	@echo
	@$(BIN)/python -m utils.table runs/demo

# Real MNIST and CIFAR-10 for the tests, where they are; without them those tests are skipped.
export DPU_REAL_DATA ?= $(wildcard ../shared/datasets)

# One process a core, one thread each: tests/conftest.py sees to that.
test: .venv/.installed-dev
	$(BIN)/python -m pytest -n auto

fast: .venv/.installed-dev
	$(BIN)/python -m pytest -n auto -m "not slow"

# What reads and writes formats, and the rounds, with the oldest versions that requirements.txt allows (but for torch).
oldest: .venv/.installed-oldest
	PYTHONPATH=.venv/oldest $(BIN)/python -m pytest -n auto -m "not slow" tests/message tests/edge tests/table tests/test_rounds.py tests/test_reinit.py tests/data

.venv/.installed-oldest: requirements.txt | .venv/.installed-dev
	sed -e '/^torch/d' -e 's/>=/==/' -e 's/,.*//' requirements.txt > .venv/oldest.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target .venv/oldest -r .venv/oldest.txt
	touch $@

# Speed and memory on this machine's CPU, about 10 minutes, on MNIST and CIFAR-10 from BENCH_DATA (downloaded if
# missing).  make bench-gpu: the tests and benchmarks that need a CUDA device.
BENCH_DATA ?= data/downloads

bench: .venv/.installed
	$(BIN)/python -m benchmarks.throughput --model mlp --dataset mnist --dataset_dir $(BENCH_DATA)
	$(BIN)/python -m benchmarks.throughput --model resnet56 --dataset cifar10 --dataset_dir $(BENCH_DATA) --samples 512 --workers
	$(BIN)/python -m benchmarks.throughput --model vgg --dataset cifar10 --dataset_dir $(BENCH_DATA) --samples 256 --workers
	$(BIN)/python -m benchmarks.overheads --dataset_dir $(BENCH_DATA)

bench-gpu: .venv/.installed-dev
	$(BIN)/python -m pytest -m gpu
	$(BIN)/python -m benchmarks.throughput --device cuda --model mlp --dataset mnist --dataset_dir $(BENCH_DATA) --samples 50000
	$(BIN)/python -m benchmarks.throughput --device cuda --precision bf16 --model vgg --dataset cifar10 --dataset_dir $(BENCH_DATA) --samples 20000
	$(BIN)/python -m benchmarks.whole_run --dataset_dir $(BENCH_DATA)

clean:
	rm -rf .venv

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("python3 is too old: 3.10 or newer is needed" if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv .venv

.venv/.installed: requirements.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/.installed-dev: requirements.txt requirements-dev.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch .venv/.installed $@
