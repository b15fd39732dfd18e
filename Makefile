# Two commands on a fresh machine with Python 3.11+: `make demo` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
OUT    ?= demo-out
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

.PHONY: demo test test-all lint format typecheck package bench-cpu bench-gpu bench-coreml bench-aie clean

# torch comes first and alone: its pin then decides what every later requirement resolves to.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip "setuptools<81"
	$(PIP) torch
	$(PIP) -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) -e ".[dev]"
	touch $@

demo: $(VENV)/.installed  ## compile the embedded basecaller, prove it, call the embedded reads
	$(BIN)/rubicc demo -o $(OUT)

test: $(VENV)/.installed-dev  ## the default suite, files on two processes: most tests use one core
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-all: $(VENV)/.installed-dev  ## with slow tests
	$(BIN)/python -m pytest -m "not packaging"

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: $(VENV)/.installed-dev
	$(BIN)/mypy

package: $(VENV)/.installed-dev  ## wheel and sdist, installed into an empty environment and used there
	$(BIN)/python -m pytest -m packaging

bench-cpu: $(VENV)/.installed  ## every network in every engine of this CPU, in turns; about half an hour
	$(BIN)/python benchmarks/cpu_table.py $(BENCH)

bench-gpu: $(VENV)/.installed  ## the same artefacts on a GPU; says what is missing where there is none
	$(BIN)/python benchmarks/gpu_table.py $(BENCH)

bench-aie: $(VENV)/.installed-dev  ## zoo x devices x widths, emulated, calls of the real R9 network (half an hour); beside aie4ml
	$(BIN)/python benchmarks/aie_zoo.py $(BENCH)
	$(BIN)/python benchmarks/aie_versus_aie4ml.py

bench-coreml: $(VENV)/.installed-dev  ## zoo x iOS16 to 18, calls of the real R9 network, cost of dna-bert; about an hour
	$(BIN)/python benchmarks/coreml_zoo.py $(BENCH)
	$(BIN)/python benchmarks/coreml_dna_bert.py

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(OUT) build dist *.egg-info
