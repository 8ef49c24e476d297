# Every target does all set-up a fresh machine needs: Python 3.10-3.13 with venv, and make. See scripts/setup.sh for PYTHON
# and STACK.

BIN := .venv/bin
READY := .venv/ready
EMBED_READY := .venv/embed-ready
SPARK_READY := .venv/spark-ready
BROWSER_READY := .venv/browser-ready
KERNELS_READY := .venv/kernels-ready
STORE_READY := .venv/store-ready
MLFLOW_READY := .venv/mlflow-ready
WANDB_READY := .venv/wandb-ready
TUNE_READY := .venv/tune-ready
DEMO := demo
# Words section.key=value that `make demo` adds to configs/demo.yaml, e.g. DEMO_OVERRIDES="train.epochs=2".
DEMO_OVERRIDES :=
# A test that uses torch is fastest on one thread; more tests run beside it instead.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4

.DELETE_ON_ERROR:
.PHONY: help setup embed-setup spark-setup mlflow-setup wandb-setup tune-setup demo test test-learns test-slow check bench-guard doctor

help:
	@echo "make demo       logs -> dataset -> Semantic IDs -> training -> evaluation -> report, in ./$(DEMO)"
	@echo "make test       the fast test suite"
	@echo "make test-learns  the tests of what training reaches, as on two older kinds of processor"
	@echo "make test-slow  the tests that take minutes"
	@echo "make check      lint, format, types"
	@echo "make bench-guard  has a training step or a decode become slower than benchmarks/guard.json?"
	@echo "make doctor     check the installation and say how to fix it"
	@echo "make setup      only the set-up, which every target above does by itself"
	@echo "make embed-setup  set-up plus what \`intrr embed\` needs (0.5 GB); make test-slow does it too"
	@echo "make mlflow-setup, make wandb-setup  set-up plus what a tracker needs (0.1 GB each); make test-slow does it too"
	@echo "make tune-setup  set-up plus Optuna for \`intrr tune\` (0.03 GB); make test-slow does it too"
	@echo "make spark-setup  set-up plus Spark for \`intrr prepare --engine spark\` (0.5 GB); make test-slow does it too"

setup: $(READY)

$(READY): pyproject.toml scripts/setup.sh $(wildcard requirements/*.txt)
	@PYTHON="$(PYTHON)" STACK="$(STACK)" scripts/setup.sh
	@touch $@

embed-setup: $(EMBED_READY)
spark-setup: $(SPARK_READY)
mlflow-setup: $(MLFLOW_READY)
wandb-setup: $(WANDB_READY)
tune-setup: $(TUNE_READY)

.venv/%-ready: requirements/%.txt $(READY)
	@echo "setup: installing $<"
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off --quiet --no-deps \
	    --require-hashes -r $< >>.venv/setup.log 2>&1 || { tail -n 15 .venv/setup.log >&2; exit 2; }
	@touch $@

demo: $(READY)
	$(BIN)/intrr generate --out $(DEMO)/logs
	$(BIN)/intrr prepare --interactions $(DEMO)/logs/interactions --items $(DEMO)/logs/items \
	    --out $(DEMO)/dataset --config configs/demo.yaml
	$(BIN)/intrr index --dataset $(DEMO)/dataset --vectors $(DEMO)/logs/vectors --out $(DEMO)/semantic_ids \
	    --config configs/demo.yaml
	$(BIN)/intrr train --dataset $(DEMO)/dataset --semantic-ids $(DEMO)/semantic_ids --vectors $(DEMO)/logs/vectors --out $(DEMO)/run \
	    --config configs/demo.yaml $(DEMO_OVERRIDES)
	$(BIN)/intrr report --run $(DEMO)/run

test: $(READY)
	$(PYTEST) -m "not slow"

# Where training ends differs with the kernels of the processor: the tests of it, and the golden losses, with two older kinds.
test-learns: $(READY)
	ATEN_CPU_CAPABILITY=default $(PYTEST) -m learns
	ATEN_CPU_CAPABILITY=avx2 $(PYTEST) -m learns
	ATEN_CPU_CAPABILITY=default $(PYTEST) tests/golden

test-slow: $(EMBED_READY) $(SPARK_READY) $(BROWSER_READY) $(KERNELS_READY) $(STORE_READY) $(MLFLOW_READY) $(WANDB_READY) $(TUNE_READY)
	$(PYTEST) -m slow --durations=20

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench-guard: $(READY)
	$(BIN)/python -m benchmarks.speed guard

doctor: $(READY)
	@$(BIN)/intrr doctor
