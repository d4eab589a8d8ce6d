# One verb set for people and for CI.  `make demo` and `make test` need nothing but Python 3.11 and a package index.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.runtime-installed
DEVELOP := $(VENV)/.develop-installed
UV := $(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt

CEPH_PROGRAMS := ceph ceph-mon ceph-osd radosgw radosgw-admin

.PHONY: setup demo test test-s3 soak check format bench clean

setup: $(RUNTIME)

$(BIN)/uv:
	$(PYTHON) -m venv $(VENV) || { echo "python3 cannot make virtual environments; install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet uv==0.13.9

$(RUNTIME): pyproject.toml constraints.txt | $(BIN)/uv
	$(UV) --editable .
	@touch $@

$(DEVELOP): pyproject.toml constraints.txt $(RUNTIME)
	$(UV) --editable '.[dev]'
	@touch $@

demo: $(RUNTIME)
	$(BIN)/avatarlab render manifests/demo.parquet --store out

test: $(DEVELOP)
	$(BIN)/python -m pytest

# The tests that need a Ceph object gateway; `make test` runs them too where it is installed, and skips them elsewhere.
test-s3: $(DEVELOP)
	@for program in $(CEPH_PROGRAMS); do command -v $$program >/dev/null || { \
	  echo "$$program is not installed; on Debian: apt-get install --no-install-recommends radosgw ceph-mon ceph-osd"; exit 1; }; done
	$(BIN)/python -m pytest -m ceph

# Kills things at random moments for some minutes; AVATARLAB_SOAK_SEED, _KILLS and _ROWS choose another run.
soak: $(DEVELOP)
	$(BIN)/python -m pytest -m soak -s

check: $(DEVELOP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(DEVELOP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(DEVELOP)
	$(BIN)/python -m benchmarks.bench

clean:
	rm -rf out build *.egg-info
