# make book   install, make the demo study, run the notebooks, render the book
# make test   install, check style and types, run all tests (make test-quick: only the quick ones)
# make test-logic PYTHON=python3.13   the tests of pure logic on another Python, in an environment of their own
# make lab    open JupyterLab with the notebooks
# make web    install the scripts that the book's pages load (`make book` does it)
# make sbom   write sbom.json, the bill of materials of .venv (CycloneDX)
#
# The first Python that runs and is one of 3.11 to 3.13. Another one, or another place for what is installed, with:
#   make book PYTHON=/path/to/python3.13 VENV=.venv-3.13
FITS := grep -q '^Python 3\.1[1-3]\.'
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13; do \
  $$python --version 2>/dev/null | $(FITS) && echo $$python && exit; done; echo python3)
VENV := .venv
BIN := $(VENV)/bin
PIP = $(BIN)/pip --quiet --disable-pip-version-check

.PHONY: book test test-quick test-logic test-logic-there lab lint install web sbom clean
.DEFAULT_GOAL := book

book: $(VENV)/.installed
	@$(BIN)/sscct demo .
	@$(BIN)/sscct run .

# Each file in one process, since its tests share what is long to make, in the order that `tests/conftest.py` gives.
BY_FILE := --dist loadfile --no-loadscope-reorder
test: $(VENV)/.installed-test lint
	@$(BIN)/python -m pytest -n 2 $(BY_FILE)

test-quick: $(VENV)/.installed-test
	@$(BIN)/python -m pytest -n auto $(BY_FILE) -m "not slow"

# What needs no networks, and fits few models, to be done in a few minutes: all packages are there but torch, whose
# default build for Linux brings gigabytes of CUDA.
LOGIC := tests/study tests/horizons tests/radiomics tests/images/test_dicom.py tests/images/test_dicom_masks.py \
  --ignore tests/radiomics/test_cross_validation.py --ignore tests/radiomics/test_clinical_scores.py \
  --ignore tests/study/test_results.py
test-logic:
	@$(CHECK_PYTHON)
	@echo "Testing pure logic on $$($(PYTHON) --version), in .venv-logic"
	@$(PYTHON) -m venv --clear .venv-logic
	@$(MAKE) --no-print-directory test-logic-there VENV=.venv-logic

test-logic-there:
	@$(BUILD_TOOLS)
	@$(INSTALL) -r requirements/study.txt -r requirements/test.txt
	@$(PROJECT)
	@$(BIN)/python -m pytest -n auto $(BY_FILE) -m "not slow" $(LOGIC)
	@$(BIN)/python -m pytest "tests/radiomics/test_equality.py::test_a_scan_of_the_demo_cohort[0]"

lint: $(VENV)/.installed-test
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

# The percent scripts open as notebooks, as Jupytext's default viewer does; here for this environment alone.
lab: $(VENV)/.installed
	@mkdir -p $(VENV)/share/jupyter/lab/settings
	@echo '{"@jupyterlab/docmanager-extension:plugin": {"defaultViewers": {"python": "Jupytext Notebook"}}}' \
	  > $(VENV)/share/jupyter/lab/settings/overrides.json
	@umask 077; $(BIN)/jupyter lab --notebook-dir=. --LabApp.default_url=/lab/tree/notebooks

install: $(VENV)/.installed

# The scan viewer, MathJax and, for the tests, axe-core, from npm into the Python environment. Where there is no npm, the
# package registry of Python has one.
web:
	@command -v npm >/dev/null || $(INSTALL) -r requirements/node.txt
	@mkdir -p "$(VENV)/share/sscct"
	@cp package.json package-lock.json "$(VENV)/share/sscct/"
	@PATH="$$PATH:$(abspath $(BIN))" npm ci --prefix "$(VENV)/share/sscct" --ignore-scripts --omit=optional --no-audit --no-fund --silent

CHECK_PYTHON = found="$$($(PYTHON) --version 2>/dev/null)"; echo "$$found" | $(FITS) || { \
  echo "Python 3.11, 3.12 or 3.13 is needed; '$(PYTHON)' is $${found:-not there, or does not run}. Get one with: conda env create -f environment.yml, or uv python install 3.11, or your system's packages (apt install python3.11-venv, brew install python@3.11); then: make book PYTHON=/path/to/python3.11"; \
  exit 1; }

# Only files whose hashes are in requirements/. What is built here is built with what is already there: PyRadiomics 3.0.1
# asks for numpy, and the file on the PYTHONPATH gives it what Python 3.12 took away, for these commands alone.
INSTALL = PYTHONPATH="$(CURDIR)/workflow/pyradiomics_build" $(PIP) install --require-hashes --no-deps --no-build-isolation
BUILD_TOOLS = grep -E '^(numpy|pip|setuptools|wheel)==' requirements/study.txt > $(VENV)/build.txt && \
  $(INSTALL) -r $(VENV)/build.txt
# The build that pip takes by itself where several are at hand; with hashes alone it would prefer that of the index.
TORCH = $(PIP) download --no-deps --dest $(VENV)/torch "$$(grep -o '^torch==[^ ]*' requirements/torch.txt)" && \
  $(INSTALL) --no-index --find-links $(VENV)/torch -r requirements/torch.txt && rm -r $(VENV)/torch
FOR_CUDA := grep -qs '^Requires-Dist: nvidia'
PROJECT = $(PIP) --quiet install --no-deps --no-build-isolation --editable .

$(VENV)/.installed: pyproject.toml requirements/study.txt requirements/torch.txt package-lock.json
	@$(CHECK_PYTHON)
	@echo "Installing packages into $(VENV) (a few minutes, once)"
	@$(PYTHON) -m venv $(VENV)
	@$(BUILD_TOOLS)
	@$(INSTALL) -r requirements/study.txt
	@$(TORCH)
	@! $(FOR_CUDA) $(VENV)/lib/python3*/site-packages/torch-*/METADATA || $(INSTALL) -r requirements/cuda.txt
	@$(PROJECT)
	@$(PIP) check
	@$(MAKE) --no-print-directory web
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed requirements/test.txt
	@$(INSTALL) -r requirements/test.txt
	@touch $@

sbom: $(VENV)/.installed
	@$(PYTHON) -m venv $(VENV)/sbom
	@$(VENV)/sbom/bin/pip install --quiet --disable-pip-version-check cyclonedx-bom==7.5.0
	@$(VENV)/sbom/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --of JSON -o sbom.json $(BIN)/python
	@echo "sbom.json: $$(grep -c '"purl"' sbom.json) packages"

clean:
	rm -rf runs scans truth .snakemake
