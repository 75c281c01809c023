# `make` lists the targets. Each one that needs Python installs .venv first, with what it uses, and
# again when pyproject.toml or that lock has changed.

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed-
BOOK := $(INSTALLED:%=%book)
GRID := $(INSTALLED:%=%grid)
DEV := $(INSTALLED:%=%dev)
RECENT := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3.11 python3 python; do \
	$$p -c '$(RECENT)' 2>/dev/null && command -v $$p && break; done)

# auto re-executes what has changed; off builds from the outputs that are stored in the chapters
EXECUTE ?= auto
# processes at a time
JOBS ?= 2
CHAPTERS ?= chapters/*.ipynb
# what `make stress` tries, as module:name
METHOD ?= workflow.stress:methods
HALF ?= open

# One thread per process: sums are taken in the same order on every machine.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.NOTPARALLEL: # two installations into one .venv
.PHONY: help book test notebooks processors planted installed results stress refresh lint clean lock

help: ## List the targets
	@echo "Usage: make TARGET [NAME=value]"
	@echo
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "Options: EXECUTE=off (book), CHAPTERS=chapters/NN-name.ipynb (notebooks, refresh),"
	@echo "         JOBS=2 (test, notebooks, results), TARGET=results/main-table, DEVICE=cuda"
	@echo "         (results), METHOD=my_module:make, HALF=sealed (stress),"
	@echo "         PYTHON=python3.11 (for .venv), UPGRADE=1 (lock)"

$(VENV)/.installed-%: requirements-%.lock pyproject.toml
	@$(or $(PYTHON),false) -c '$(RECENT)' || { echo "dfdlib needs Python 3.11 or newer, and \
	$(or $(PYTHON),python3) is $$($(or $(PYTHON),python3) --version 2>&1). Install one, and name it if \
	it is not on the PATH: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --requirement $<
	$(BIN)/python -m pip install --no-deps --no-build-isolation --editable .
	@touch $@

book: $(BOOK) $(DEV) ## Re-execute what changed and build the book (EXECUTE=off: from the stored outputs)
	$(BIN)/python tools/book.py config --execute $(EXECUTE) --out _build/_config.yml
	$(BIN)/jupyter-book build . --config _build/_config.yml -n -W --keep-going
	DFDLIB_HTML="$(CURDIR)/_build/html" $(BIN)/pytest --quiet tests/test_html.py
	@echo
	@echo "The book is ready. Open file://$(CURDIR)/_build/html/index.html"

test: $(BOOK) $(GRID) $(DEV) ## Run the tests and the library's doctests, with coverage (no notebook)
	$(BIN)/pytest --numprocesses $(JOBS) --cov --durations=10 -rfEs

notebooks: $(BOOK) $(DEV) ## Re-execute every chapter and compare with its stored outputs
	$(BIN)/pytest --nbval-lax --nbval-current-env --nbval-cell-timeout 300 \
		--numprocesses $(JOBS) --dist loadfile $(CHAPTERS)

processors: ## Run .ci/run on a clean clone under four kinds of arithmetic: hours
	bash .ci/processors

planted: $(BOOK) $(DEV) ## Plant faults in a copy of the library, and see chapters fail
	$(BIN)/python tests/planted.py

installed: $(DEV) ## Install the wheel alone and with [clinical], and try each: minutes
	$(BIN)/python tests/installed.py

results: export PATH := $(CURDIR)/$(BIN):$(PATH)
results: $(GRID) ## Compute all that results/ holds: hours, goes on after a kill
	$(BIN)/python workflow/results.py --cores $(JOBS) $(TARGET)

stress: $(DEV) ## Try METHOD on the stress cohorts beside plain training; goes on after a kill
	$(BIN)/dfdlib stress $(METHOD) --half $(HALF) --folder runs/stress --save results/stress

refresh: $(BOOK) $(DEV) ## Re-execute chapters in place and normalise their files
	$(BIN)/python tools/notebooks.py refresh $(CHAPTERS)

lint: $(BOOK) $(DEV) ## Check style, types, the import contract, notebooks and workflows
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/notebooks.py check $(CHAPTERS)
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff
	$(BIN)/zizmor --offline --no-progress --quiet .github
	$(BIN)/pre-commit validate-config

lock: $(DEV) ## Resolve the dependencies anew (UPGRADE=1: to their newest versions)
	$(BIN)/python tools/lock.py $(if $(UPGRADE),--upgrade)

# .snakemake knows which of the results a killed run left unfinished: it stays as long as they do.
clean: ## Remove what the other targets built; keep .venv, results/ and runs/
	rm -rf _build build dist .coverage* *.egg-info .*_cache .hypothesis
	find . \( -name __pycache__ -o -name .ipynb_checkpoints \) -not -path './$(VENV)/*' \
		-prune -exec rm -rf {} +
