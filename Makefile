# unsmear: set up, try, test and measure. `make help` lists the targets.

PYTHON ?= python3
# Another index for torch alone, to choose a CPU or CUDA build; README says where to find it.
TORCH_INDEX ?=

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed

.PHONY: help venv demo test lint bench

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

venv: $(READY) ## make .venv with the tested versions

demo: $(READY) ## deblur a real clip and a pair with known truth into out/demo/
	@$(BIN)/python tools/demo.py

test: $(READY) ## run the whole test suite
	$(BIN)/python -m pytest -n 2

lint: $(READY) ## check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY) ## frames a second and peak memory of every model
	$(BIN)/python -m unsmear benchmark

# torch comes first and alone, so that a build chosen beforehand (CPU or CUDA) is kept.
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

$(READY): pyproject.toml constraints.txt src/unsmear/version.py
	@test -x $(BIN)/python || { \
	  $(PYTHON) -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "unsmear needs Python 3.11 or later with its venv module: apt install python3-venv," \
	      "or name another interpreter: make PYTHON=python3.12" >&2; exit 1; }; \
	  $(PYTHON) -m venv $(VENV); }
	$(PIP_INSTALL) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(PIP_INSTALL) -e '.[train,dev]'
	@touch $@
