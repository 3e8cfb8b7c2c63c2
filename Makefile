PYTHON ?= python3
BIN := .venv/bin
CONTROLS ?= runs/controls
STUDIES ?= $(patsubst analyses/%/expected.json,%,$(wildcard analyses/*/expected.json))
export OMP_NUM_THREADS ?= 2

.PHONY: demo calibrate calibrate-quick test test-slow bench bench-peers docs notebooks screenshots verdicts lint results studies reproduce clean

# Diagnose the reference models: the verdict table on the screen, the evidence in demo/report.html.
demo: .venv/installed
	$(BIN)/circuit-lab diagnose models/* --report demo/report.html

test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m "not slow and not benchmark"

test-slow: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m slow
	OMP_NUM_THREADS=1 $(BIN)/pytest -m benchmark

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/pydoclint circuit_lab

# Time our measures against their peers, in pairs, into docs/benchmarks.md (a few minutes, alone on the machine).
bench: .venv/installed-dev bench-peers
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/table.py

# Peers that cannot be installed beside us, into an environment of their own (a minute).
bench-peers: .venv-peers/installed

.venv-peers/installed:
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/pip install --quiet --disable-pip-version-check transformer-lens==3.9.0 $$(grep ^torch== constraints.txt)
	touch $@

# How far the verdicts can be trusted: two controls of every family, into runs/ (about a minute).
calibrate-quick: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/circuit-lab calibrate --quick

# The committed result, anew: every control, and the trained ones where analyses/calibration/train_controls.py left them.
calibrate: .venv/installed-docs
	OMP_NUM_THREADS=1 $(BIN)/circuit-lab calibrate --out analyses/calibration --svg $(if $(wildcard $(CONTROLS)),--trained $(CONTROLS))

# The documentation as a site that opens without a server or a network: site/index.html (half a minute).
docs: .venv/installed-docs
	$(BIN)/python docs/code_map.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# Pictures of demo/report.html for the README, into docs/images.
screenshots: .venv/installed-dev demo/report.html
	$(BIN)/python docs/screenshots.py

demo/report.html:
	$(MAKE) demo

# Run the notebooks from the top and keep what they show (three minutes).
notebooks: .venv/installed-dev
	TQDM_DISABLE=1 PYTHONWARNINGS=ignore PLOTLY_RENDERER=plotly_mimetype $(BIN)/jupyter execute --inplace docs/*.ipynb

# Diagnose one net for each verdict and show them in docs/verdicts.md (a minute).
verdicts: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python analyses/worked_examples/study.py

# The page of claims from the tables that lie beside the studies: docs/results.md (seconds, trains nothing).
results: .venv/installed
	$(BIN)/python docs/results.py

# Every study anew at small scale, tables and figures beside it (hours on two cores; a stopped one goes on where it was).
studies: .venv/installed-docs
	for study in $(STUDIES); do \
		OMP_NUM_THREADS=1 $(BIN)/circuit-lab reproduce $$study --out analyses/$$study/small --svg || exit 1; done
	$(MAKE) results

# Train the reference models anew from their recipes (more than an hour) into runs/.
reproduce: .venv/installed
	for recipe in models/*/recipe.toml; do OMP_NUM_THREADS=1 $(BIN)/circuit-lab train $$recipe || exit 1; done

clean:
	rm -rf .venv .venv-peers demo runs site

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,docs,onnx,cluster]'
	touch $@

.venv/installed-docs: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@
