# The course in a few commands. `make` alone lists them.
#
# PYTHON=/path/to/python3.12   the Python to make .venv with (3.11 or newer)
# LOCKED=1                     install exactly the set of versions in constraints.txt, which was tested together

VENV := .venv
ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif
PIP_INSTALL = $(BIN)/python -m pip install --disable-pip-version-check $(if $(LOCKED),-c constraints.txt)
export PYTHONUTF8 := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help learn doctor test quick solved lint clean

help:  ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

learn: $(VENV)/installed  ## open the course in JupyterLab (the first time: install it, 2 to 10 minutes)
	@$(BIN)/segviz learn $(ARGS)

doctor: $(VENV)/installed  ## say what this machine has for the course, and what to do
	@$(BIN)/segviz doctor

test: $(VENV)/installed-tests  ## the whole suite: up to 30 minutes on two cores
	$(BIN)/python -m pytest -m "not solved" $(ARGS)

quick: $(VENV)/installed-tests  ## the part of the suite that takes under two minutes
	$(BIN)/python -m pytest -m "not slow and not solved" $(ARGS)

solved: $(VENV)/installed-tests  ## run every lesson with the solutions filled in
	$(BIN)/python -m pytest -m solved tests/test_lessons.py $(ARGS)

lint: $(VENV)/installed-tests  ## look for mistakes in the code without running it
	$(BIN)/python -m ruff check segviz tests lessons benchmarks

clean:  ## remove .venv and caches; my_lessons and your progress stay
	rm -rf $(VENV) build segviz.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps are written last, so that an install that was interrupted is taken up again.
$(VENV)/installed: requirements.txt pyproject.toml | $(VENV)/python
	$(PIP_INSTALL) -r requirements.txt
	@touch $@

$(VENV)/installed-tests: requirements-test.txt requirements.txt pyproject.toml | $(VENV)/python
	$(PIP_INSTALL) -r requirements-test.txt
	@touch $@ $(VENV)/installed

# Made by the first Python that is new enough and really runs: a name on the PATH may be an empty shim.
$(VENV)/python:
	@for python in $(if $(PYTHON),"$(PYTHON)",python3.13 python3.12 python3.11 python3.14 python3 python); do \
	  if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	    echo "Making $(VENV) with `"$$python" --version` ($$python)"; \
	    "$$python" -m venv --clear $(VENV) || { echo 'Making .venv failed. On Debian and Ubuntu: sudo apt-get install python3-venv' >&2; exit 1; }; \
	    touch $@; exit 0; \
	  fi; \
	done; \
	echo 'The course needs Python 3.11 or newer, and $(if $(PYTHON),$(PYTHON) is not one,none was found).' >&2; \
	echo 'Install one (python.org, or your package manager), or name it: make $(or $(MAKECMDGOALS),learn) PYTHON=/path/to/python3.12' >&2; \
	exit 1
