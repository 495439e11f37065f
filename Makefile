# `make demo` and `make test` are all a newcomer needs: both set up .venv first. `make help` lists the rest.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check
READY := $(VENV)/.ready
UNFINISHED := $(VENV)/.unfinished
# Python runs this line at its start, before a program imports timm or Lightning (see image2point/torchvision_import.py).
MEND := import importlib.util; importlib.util.find_spec("image2point") and __import__("image2point")

# Threads that wait for each other sleep early, as under the command itself (image2point/cli.py).
ifndef OMP_WAIT_POLICY
export GOMP_SPINCOUNT ?= 3000
endif

.PHONY: help demo test test-slow test-gpu mutants coverage docs notebooks lint format scatter clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: $(READY)  ## what an ImageNet network brings to point clouds, on this machine's CPU
	$(VENV)/bin/image2point demo

test: $(READY)  ## the everyday test suite
	$(RUN) -m pytest

test-slow: $(READY)  ## the tests that take minutes
	$(RUN) -m pytest -m "slow and not gpu"

test-gpu: $(READY)  ## the tests that need a CUDA device
	$(RUN) -m pytest -m gpu

mutants: $(READY)  ## put known bugs in, one at a time: do the tests notice? (most of an hour; goes on where it stopped)
	$(RUN) scripts/mutants.py

coverage: $(READY)  ## lift and compare every ConvNet of timm (an hour; goes on where it stopped), and write docs/coverage.md
	$(RUN) scripts/coverage.py run
	$(RUN) scripts/coverage.py write

# The pages of commands and settings are written anew; a broken link, a missing anchor or an unknown name ends the build.
docs: $(READY)  ## build the site of docs/ into build/site
	$(RUN) scripts/notebooks.py --unexecuted
	$(RUN) scripts/docs_config.py > docs/reference/config.md
	$(RUN) scripts/docs_cli.py > docs/reference/cli.md
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build

notebooks: $(READY)  ## execute the tutorials of docs/tutorials into pages for `make docs`, and say how long each takes
	$(RUN) scripts/notebooks.py

lint: $(READY)  ## style, types, and whether docs/results.md is what its rows give
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(RUN) scripts/results.py --check

format: $(READY)  ## let ruff lay out the code
	$(RUN) -m ruff check --fix --exit-zero --quiet .
	$(RUN) -m ruff format .

# The build reads the installed torch, so it must not be isolated; two compilers at once fit in ordinary memory.
scatter: $(READY)  ## build torch-scatter (minutes), which voxelisation uses where it is installed
	@$(RUN) -c "import torch_scatter" 2>/dev/null && echo "torch-scatter is installed" || { \
	    $(PIP) install -q -c constraints.txt setuptools wheel && \
	    printf '[build_ext]\nparallel=2\n' > $(VENV)/build.cfg && \
	    DIST_EXTRA_CONFIG=$(CURDIR)/$(VENV)/build.cfg \
	        $(PIP) install --no-build-isolation -c constraints.txt torch-scatter && \
	    $(RUN) -c "import torch_scatter"; }

clean:  ## remove .venv and caches, never runs or data
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment that this rule began and did not finish is thrown away; one that someone else made is kept.
$(READY): pyproject.toml constraints.txt Makefile
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v <= (3, 13) else \
	    "image2point needs Python 3.10 to 3.13; $(PYTHON) is %d.%d. Name another: make PYTHON=python3.12" % v)'
	@if [ -e $(UNFINISHED) ]; then rm -rf $(VENV); fi
	@if [ ! -e $(VENV) ]; then mkdir $(VENV) && touch $(UNFINISHED) && $(PYTHON) -m venv $(VENV); fi
	$(PIP) install -q -c constraints.txt -e '.[dev]'
	@$(RUN) -c 'import torchvision' 2>/dev/null || echo '$(MEND)' > \
	    "$$($(RUN) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/mend_torchvision.pth"
	@rm -f $(UNFINISHED) && touch $@
