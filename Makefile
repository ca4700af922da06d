# The two commands of a newcomer are `make demo` and `make test`; both install into .venv first, once.
# A Python of your own: make test PYTHON=/path/to/python

PYTHON ?= $(shell for python in python3.11 python3; do $$python -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $$python && break; done)
VENV ?= .venv
# PyTorch's CPU build, a tenth of the download; `make test TORCH_INDEX=https://pypi.org/simple` takes the CUDA build.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# How the shipped models were made; `make train WORLD=obstacle-grid` makes that of the world with obstacles, and so on: see the README.
WORLD ?= image-navigation
TRAIN ?= --seed 0 --output runs/$(WORLD)

BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install -qq --no-input --disable-pip-version-check --prefer-binary -c constraints.txt

.PHONY: demo test train format lint type ci clean

demo: $(VENV)/demo.stamp
	$(BIN)/python agents/plan_mpc.py

test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest

train: $(VENV)/demo.stamp
	$(BIN)/python -m gtmsm_env train $(WORLD) $(TRAIN)

format: $(VENV)/dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The package is checked as it installs, because type checkers do not see envs/ as gtmsm_env.envs in the repository itself.
type: $(VENV)/dev.stamp
	rm -rf build
	$(BIN)/python -c "import setuptools; setuptools.setup()" --quiet build_py --build-lib build/type
	cd build/type && $(abspath $(BIN))/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache -p gtmsm_env
	MYPYPATH=build/type $(BIN)/mypy $(wildcard agents/*.py benchmarks/*.py)

ci:
	.ci/run

clean:
	rm -rf build dist $(VENV) *.egg-info .mypy_cache .pytest_cache .ruff_cache

# demo.stamp and dev.stamp: the environment with that extra, made again only when the requirements change.
$(VENV)/%.stamp: pyproject.toml constraints.txt gtmsm_env/__init__.py
	@$(or $(PYTHON),false) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "gtmsm-env needs Python 3.10 or later, got PYTHON='$(PYTHON)': name one with PYTHON=/path/to/python" >&2; exit 1; }
	@echo "installing into $(VENV), a few hundred megabytes, once"
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@$(INSTALL) --upgrade pip setuptools
	@$(INSTALL) --no-deps --retries 0 --extra-index-url $(TORCH_INDEX) torch
	@$(INSTALL) --no-build-isolation --editable ".[$*]"
	@touch $@
