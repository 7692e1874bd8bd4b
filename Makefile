# `make demo` and `make test` set up everything they need by themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SLOW := faults or ceph or browser or cluster or cuda

.PHONY: demo test lint test-faults test-s3 test-browser test-clusters test-cuda clean
.DEFAULT_GOAL := demo

$(VENV)/.ready: pyproject.toml constraints.txt
	@echo "Setting up $(VENV): PyTorch with CUDA and Ray, about 7.5 GB; minutes on a fast network."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(VENV)/.ready
	$(BIN)/amsam-ray tune --space search_spaces/demo.yaml

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Two processes, each with whole files, as the fixtures of a module are made once, and with one thread for torch.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --no-loadscope-reorder --dist loadfile -m 'not ($(SLOW))'

test-faults test-browser test-cuda: test-%: $(VENV)/.ready
	$(BIN)/python -m pytest -m '$*'

test-s3: $(VENV)/.ready
	$(BIN)/python -m pytest -m ceph

test-clusters: $(VENV)/.ready
	$(BIN)/python -m pytest -m 'cluster and not faults'

clean:
	rm -rf results build *.egg-info
