# From nothing: `make demo` runs the built-in benchmark, `make test` the tests. Both set up .venv first.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
# Two busy cores make OpenMP's spinning threads slow each other down tenfold.
export OMP_WAIT_POLICY := PASSIVE
# Nothing here needs the hub, and without a network each name would be retried for 23 s.
OFFLINE := HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1
PYTEST := $(OFFLINE) OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2

.PHONY: demo test test-slow test-peers notebooks lint setup

setup: $(VENV)/installed

$(VENV)/installed: requirements.txt requirements-peers.txt pyproject.toml
	$(PYTHON) -c "import sys; sys.exit('Python 3.11 or newer is needed: make PYTHON=python3.12' if sys.version_info < (3, 11) else 0)"
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-peers.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

# DEMO_ARGS='--limit 1' for a quick look
demo: setup
	$(OFFLINE) $(RUN) eval.py --cfg 'cfg/demo/**/*.yaml' --no_log $(DEMO_ARGS)

test: setup
	$(PYTEST)

test-slow: setup
	$(PYTEST) -m slow

# Runs the notebooks and keeps what they show
notebooks: setup
	$(OFFLINE) $(RUN) scripts/run_notebooks.py

lint: setup
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

# Environments of external tools (external/README.md), one a folder with a requirements.txt: make env-kvpress env-llmlingua
env-%: .envs/%/installed
	@echo "$* is ready in .envs/$*"

.PRECIOUS: .envs/%/installed
.envs/%/installed: external/%/requirements.txt
	$(PYTHON) -c "import sys; sys.exit('Python 3.11 or newer is needed: make PYTHON=python3.12' if sys.version_info < (3, 11) else 0)"
	$(PYTHON) -m venv .envs/$*
	.envs/$*/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

# Tests against other tools, in their environments
test-peers: setup env-kvpress env-llmlingua
	$(PYTEST) -m peers
