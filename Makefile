# Everything is set up in .venv by the two commands that a newcomer needs:
#   make lab    the main job on the embedded model
#   make test   format, lint, types and all tests (QUICK=1: without the slow ones)

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.complete
OUT ?= out/lab

.PHONY: lab test test-vllm support check reports clean

lab: $(STAMP)
	$(BIN)/dsmoe-eval run lab --out $(OUT)

test: check
	$(BIN)/python -m pytest -m "not vllm$(if $(QUICK), and not slow)" --junitxml out/tests.xml
	$(if $(QUICK),,$(MAKE) test-vllm && $(BIN)/python tests/support_table.py --check)

# The real vLLM on the CPU: its packages go beside the others, its tests into a process of their own.
test-vllm: $(STAMP) .venv/.vllm
	$(BIN)/python -m pytest -m vllm --junitxml out/tests-vllm.xml

# The README's table of what is supported, from the tests that show it.
support: $(STAMP) .venv/.vllm
	$(BIN)/python -m pytest tests/test_models.py tests/steering/test_architectures.py tests/engines/test_baking.py --junitxml out/tests.xml
	$(BIN)/python -m pytest -m vllm tests/engines/test_vllm.py --junitxml out/tests-vllm.xml
	$(BIN)/python tests/support_table.py

.venv/.vllm: tests/requirements-vllm.txt $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r tests/requirements-vllm.txt
	touch .venv/.vllm

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The reports that are kept in the repository, of the code as it stands.
reports: $(STAMP)
	rm -rf out/reports
	$(BIN)/dsmoe-eval run lab --out out/reports
	$(BIN)/dsmoe-eval report out/reports --to reports/lab
	$(BIN)/dsmoe-eval similarity lab-poly --suite lab --device cpu --out reports/similarity
	$(BIN)/dsmoe-eval existence lab-poly --suite lab --out reports/existence

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed; make PYTHON=python3.12 ...')"
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

clean:
	rm -rf .venv out
