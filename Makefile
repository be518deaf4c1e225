# Everything is set up in .venv by the two commands that a newcomer needs:
#   make lab    the main job on the embedded model
#   make test   format, lint, types and all tests (QUICK=1: without the slow ones)

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.complete
VLLM := $(CURDIR)/.venv/vllm
OUT ?= out/lab

.PHONY: lab test test-core test-slow test-vllm browser support check schemas reports leaderboards clean

lab: $(STAMP)
	$(BIN)/dsmoe-eval run lab --out $(OUT)

# Two parts at a time, a core each; what they say is shown when a part ends.
test: check
	$(if $(QUICK),$(MAKE) test-core,$(MAKE) --jobs=2 --output-sync=target test-core test-vllm test-slow)
	$(if $(QUICK),,$(BIN)/python tests/support_table.py --check)

test-core test-slow test-vllm: export OMP_NUM_THREADS ?= 1

test-core: $(STAMP) browser
	$(BIN)/python -m pytest -m "not vllm and not slow" --junitxml out/tests.xml

test-slow: $(STAMP) browser
	$(BIN)/python -m pytest -m "slow and not vllm" --junitxml out/tests-slow.xml

# The pages are tested in a Chromium of the system's; a newcomer's machine may have none.
browser:
	@{ command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null || \
	{ apt-get update -qq && apt-get install -qq -y chromium; } || \
	{ echo "the pages' tests need Chromium: install chromium or google-chrome, then make test again" >&2; exit 1; }

# The real vLLM on the CPU. Its packages stay in a folder of their own, so that the rest is tested
# without them, and while they are being installed.
test-vllm: .venv/.vllm
	PYTHONPATH=$(VLLM) $(BIN)/python -m pytest -m vllm --junitxml out/tests-vllm.xml

# The README's table of what is supported, from the tests that show it.
support: .venv/.vllm
	rm -f out/tests-slow.xml
	$(BIN)/python -m pytest tests/cards/test_models.py tests/steering/test_architectures.py tests/models/test_baking.py --junitxml out/tests.xml
	PYTHONPATH=$(VLLM) $(BIN)/python -m pytest -m vllm tests/engines/vllm/test_engine.py --junitxml out/tests-vllm.xml
	$(BIN)/python tests/support_table.py

.venv/.vllm: tests/requirements-vllm.txt $(STAMP)
	rm -rf $(VLLM)
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --no-deps --target $(VLLM) -r tests/requirements-vllm.txt
	touch .venv/.vllm

check: $(STAMP)
	$(BIN)/dsmoe-eval leaderboard check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The JSON Schemas of the files that the program writes, from the models of the code as it stands.
schemas: $(STAMP)
	$(BIN)/python -m dsmoe_eval.schemas

# The reports that are kept in the repository, of the code as it stands.
reports: $(STAMP)
	rm -rf out/reports out/rivals out/trial
	$(BIN)/dsmoe-eval run lab --out out/reports
	$(BIN)/dsmoe-eval report out/reports --to reports/lab
	$(BIN)/dsmoe-eval similarity lab-poly --suite lab --device cpu --out reports/similarity
	$(BIN)/dsmoe-eval existence lab-poly --suite lab --out reports/existence
	$(BIN)/dsmoe-eval run rivals --out out/rivals
	$(BIN)/dsmoe-eval report out/rivals --to reports/rivals
	$(BIN)/dsmoe-eval trial trial --out out/trial --to reports/identification

# The leaderboards that are kept in the repository; after `make reports`, whose runs they file.
leaderboards: $(STAMP)
	rm -rf out/reports-1
	$(BIN)/dsmoe-eval run lab --seed 1 --out out/reports-1
	$(BIN)/dsmoe-eval leaderboard add out/reports out/reports-1 out/trial
	$(BIN)/dsmoe-eval leaderboard build --runs out/reports --runs out/reports-1 --runs out/trial

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed; make PYTHON=python3.12 ...')"
	$(PYTHON) -m venv --clear .venv
	# Compiling all that is never imported would take longer than installing it.
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

clean:
	rm -rf .venv out
