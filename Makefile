SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH_STAMP := $(VENV)/.installed-bench
STACK_STAMP := .venv-stack/.installed
BROWSER_STAMP := $(VENV)/.installed-browser
RELEASE_STAMP := $(VENV)/.installed-release
FUZZ_STAMP := $(VENV)/.installed-fuzz
AXE := build/axe-core/package/axe.min.js
EXTRAS := scanpy,vae,haystack,embedded,google,openai,observability,ui
# groups are known to pip from 25.1 on; constraints.txt has a newer one
INSTALL := PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/python -m pip install -q --disable-pip-version-check
PYTEST := $(BIN)/python -m pytest
# one file after another in their order, in which those with few and long tests come first
TWO := -n 2 --dist loadfile --no-loadscope-reorder
# the many short processes of the tests compile nothing twice
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-live test-page test-stack fuzz soak lint format bench bench-annotation bench-latent bench-atlas bench-inference bench-responses bench-grounding bench-haystack docs build packaging-check release-check constraints clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

setup: $(STAMP) ## make .venv from constraints.txt, or leave it when it is current

$(STAMP): pyproject.toml constraints.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; name one with: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	@echo "setting up $(VENV) (a few minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(INSTALL) 'pip>=25.1' 2> >(grep -v '^WARNING: Location' >&2)
	@$(INSTALL) -e '.[$(EXTRAS)]' --group dev 2> >(grep -v '^WARNING: Location' >&2)
	@touch $@

demo: $(STAMP) ## run the three example DAGs on real data and print what came out
	@$(BIN)/python scripts/demo.py

test: $(STAMP) ## the tests, about five minutes on two cores
	$(PYTEST) -m 'not slow' $(TWO) --ignore=tests/live --ignore=tests/release

# the demo, which takes longest, comes first
test-slow: $(STAMP) ## the slower suites
	$(PYTEST) -m slow $(TWO) tests/packaging tests/notebooks tests/dags tests/integration tests/unit

test-live: $(STAMP) ## faults in an Airflow that really runs, its processes killed one by one
	$(PYTEST) --timeout 1800 tests/live --ignore=tests/live/page $(LIVE)

$(BROWSER_STAMP): $(STAMP)
	@$(INSTALL) --group browser 2> >(grep -v '^WARNING: Location' >&2)
	@touch $@

# axe-core is under MPL-2.0; it only looks at pages here, and is no part of the package
$(AXE):
	@mkdir -p build/axe-core
	@if command -v npm > /dev/null; then cd build/axe-core && tar -xzf "$$(npm pack --silent axe-core@4.14.1)"; \
		else echo "npm is not here: the page is tested without axe-core"; fi

test-page: $(BROWSER_STAMP) $(AXE) ## the page in a real Chromium, at an Airflow that really runs; pictures in build/page
	@command -v chromium > /dev/null || test -n "$$CHROMIUM" || { test "$$(id -u)" = 0 && apt-get update -qq \
		&& DEBIAN_FRONTEND=noninteractive apt-get install -qq -y chromium > /dev/null; } \
		|| echo "Chromium is not here and can't be installed: install the package chromium, or name one in CHROMIUM"
	$(PYTEST) --timeout 1800 tests/live/page

# what needs arc-stack, in an environment like that of docker/stack: without Airflow
$(STACK_STAMP): docker/stack/requirements.txt docker/stack/install.sh constraints.txt
	@echo "setting up .venv-stack (a few minutes the first time)"
	@test -x .venv-stack/bin/python || $(PYTHON) -m venv .venv-stack
	@docker/stack/install.sh .venv-stack/bin/python
	@.venv-stack/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt pytest
	@touch $@

# so small a model takes one thread: at load 8, an epoch took 11 s with one and 67 s with two
test-stack: $(STAMP) $(STACK_STAMP) ## the tests of the backend stack, on a small checkpoint that is trained once
	OMP_NUM_THREADS=1 PYTHONPATH=$(CURDIR) .venv-stack/bin/python -P -m pytest -c tests/stack/pytest.ini tests/stack
	STACK_PYTHON=$(CURDIR)/.venv-stack/bin/python $(PYTEST) tests/integration/inference/test_batch_stack.py

$(FUZZ_STAMP): $(STAMP)
	@$(INSTALL) --group fuzz 2> >(grep -v '^WARNING: Location' >&2)
	@touch $@

# what is found lies beside the corpora in build/fuzz
fuzz: $(FUZZ_STAMP) ## each parser for FUZZ_SECONDS, 60 by default, fed with bytes by Atheris
	@for parser in $$($(BIN)/python -c 'from tests.fuzz.parsers import PARSERS; print(*PARSERS)'); do echo "== $$parser"; \
		$(BIN)/python -m tests.fuzz $$parser -max_total_time=$(or $(FUZZ_SECONDS),60) -print_final_stats=1 || exit 1; done

soak: $(STAMP) ## 100 loops through random faults, and 200 runs in which nothing may grow; about half an hour
	SOAK_LOOPS=$(or $(SOAK_LOOPS),100) SOAK_RUNS=$(or $(SOAK_RUNS),200) $(PYTEST) -s --show-capture=no --timeout 7200 \
		tests/integration/test_soak.py tests/integration/test_leaks.py

lint: $(STAMP) ## ruff, mypy --strict, the import contracts and bandit
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -n 2
	$(BIN)/lint-imports
	$(BIN)/bandit -q -ll -c pyproject.toml -r gca_core airflow_provider_gca dags scripts

format: $(STAMP) ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(BENCH_STAMP): $(STAMP)
	@echo "adding the libraries that the benchmarks compare with"
	@$(INSTALL) --group bench 2> >(grep -v '^WARNING: Location' >&2)
	@touch $@

bench: $(BENCH_STAMP) ## measure against baselines; what needs data that is not there is skipped and says so
	@for bench in benchmarks/bench_*.py; do echo "== $$bench"; $(BIN)/python $$bench || exit 1; done

bench-annotation: $(BENCH_STAMP) ## the annotation part of it: published clusters, peers, and speed
	@$(BIN)/python benchmarks/bench_annotation.py
	@$(BIN)/python benchmarks/bench_annotation_speed.py
	@$(BIN)/python benchmarks/bench_annotation_cpu.py
	@$(BIN)/python benchmarks/bench_annotation_reference.py

bench-latent: $(BENCH_STAMP) ## the latent part of it: cells, peers, time and memory
	$(BIN)/python benchmarks/bench_latent.py

bench-atlas: $(STAMP) ## the atlas: recall and time of searches, ingest, memory
	$(BIN)/python benchmarks/bench_atlas.py

bench-haystack: $(STAMP) ## the loop against what it has to beat, on questions whose answer is put aside; about 40 minutes
	@$(BIN)/python benchmarks/bench_haystack.py
	@$(BIN)/python benchmarks/bench_prompts.py

bench-inference: $(STAMP) ## shift's time and memory, Kang 2018, and what the operator adds to a job on Google Batch
	@$(BIN)/python benchmarks/bench_inference.py
	@$(BIN)/python benchmarks/bench_batch.py

bench-responses: $(STAMP) ## the atlas's own estimate of a response and its forecast, each known pair left out
	$(BIN)/python benchmarks/bench_responses.py

bench-grounding: $(BENCH_STAMP) ## differential expression, enrichment, the score and whole runs: time, beside scanpy, gseapy and decoupler
	@$(BIN)/python benchmarks/bench_grounding.py
	@$(BIN)/python benchmarks/bench_haystack_speed.py

docs: $(STAMP) ## build the documentation into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet && echo "the documentation is in site/"

build: $(STAMP) ## a wheel and an sdist in dist/
	$(BIN)/python -m build --no-isolation --outdir dist .

$(RELEASE_STAMP): $(STAMP)
	@$(INSTALL) --group release 2> >(grep -v '^WARNING: Location' >&2)
	@touch $@

packaging-check: $(RELEASE_STAMP) ## wheel and sdist in new environments, and what an index would show
	$(PYTEST) --timeout 1800 -m 'not slow' tests/release

release-check: $(RELEASE_STAMP) ## that, and the demo from the wheel; leaves dist/, SHA256SUMS and sbom.cdx.json in build/release
	$(PYTEST) --timeout 1800 tests/release
	@cd build/release/dist && sha256sum *.whl *.tar.gz > ../SHA256SUMS && cat ../SHA256SUMS

constraints: ## resolve constraints.txt anew, for Python 3.11 to 3.13
	@test -x build/uv/bin/uv || { $(PYTHON) -m venv build/uv && build/uv/bin/pip install -q uv; }
	@printf '%s\n' torch==2.13.0 'anndata>=0.12.19' > build/pins.txt
	@{ echo "# every transitive dependency of every extra and group, for Python 3.11 to 3.13; made by 'make constraints'"; \
		build/uv/bin/uv pip compile pyproject.toml --all-extras $(addprefix --group ,dev bench browser fuzz release) --universal --python-version 3.11 \
		--no-header --no-annotate --no-emit-index-url --constraint build/pins.txt -q; } > build/constraints.txt
	@mv build/constraints.txt constraints.txt

clean: ## remove what the other targets made, except .venv
	@if test -x $(BIN)/gca && test -d .demo/home; then $(BIN)/gca db remove --yes --home .demo/home; fi
	rm -rf .demo .stack-cache build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
