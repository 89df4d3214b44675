# Every target that needs the virtual environment makes it first; when it is up to date that costs nothing.
PYTHON ?= $(or $(shell command -v python3.11),python3)
BIN := .venv/bin
READY := .venv/.ready
# Tests that boot no engine run in so many processes, the tests of a file in one; each computes with one thread.
WORKERS ?= 2
BESIDE := OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist loadfile
SOURCES := .sources/.ready

.DEFAULT_GOAL := help
.PHONY: help setup sources browser lint test test-slow demo eval bench-bank bench-engine bench-residency bench-prefix bench-conversation bench-trainer bench-disguises bench-large bench-shapes bench-gpu bench-hook bench-loop recitals loadtest churn kills story clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' Makefile

setup: $(READY)  ## a virtual environment in .venv with pinned dependencies, and the default models

$(READY): requirements.lock pyproject.toml scripts/setup.sh
	@PYTHON="$(PYTHON)" scripts/setup.sh
	@touch $@

sources: $(SOURCES)  ## the sources of the releases of vLLM that cannot run here, for `make test`; in .sources

$(SOURCES): sources.lock scripts/sources.sh | $(READY)
	@scripts/sources.sh
	@touch $@

browser:  ## the browser that tests of the console drive: CHROMIUM, chromium in PATH, or Debian's package
	@scripts/browser.sh

lint: $(READY)  ## ruff, mypy (strict), import rules
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy --strict loadtests
	$(BIN)/lint-imports --no-logo

test: $(READY) $(SOURCES) browser  ## the tests, real engine and browser included; about 15 minutes on 2 cores
	$(BESIDE) -m "not engine and not slow and not gpu" --maxfail 5 --timeout 300
	@# A broken engine can make every test after it wait for its timeout.
	$(BIN)/pytest -m "engine and not slow and not gpu" --maxfail 5 --timeout 300

test-slow: $(READY)  ## the tests that take more than a minute each
	@# pytest's exit code 5: no test is marked slow. That is not a failure of any test.
	$(BESIDE) -m "slow and not engine and not gpu" --maxfail 3 || [ $$? -eq 5 ]
	$(BIN)/pytest -m "slow and engine and not gpu" --maxfail 3 || [ $$? -eq 5 ]

demo: $(READY)  ## train memories, serve them, ask; ends in out/demo.json
	$(BIN)/vllm-mega demo --output out

eval: $(READY)  ## train the invented memories, ask about them in every way; out/eval/report.html
	$(BIN)/vllm-mega eval --data vllm_mega/examples/memories.jsonl --bank out/bank --output out/eval \
	  --questions vllm_mega/examples/questions.jsonl --unrelated vllm_mega/examples/unrelated.jsonl \
	  --compositional vllm_mega/examples/compositional.jsonl

bench-bank: $(READY)  ## one change in banks of 100 to 1,000,000 memories; out/bench-bank.json
	$(BIN)/python -m loadtests.catalog --output out/bench-bank.json

bench-engine: $(READY)  ## mixtures against the base model and vLLM's own LoRA; out/bench-engine.json
	$(BIN)/python -m loadtests.engine --output out/bench-engine.json

bench-residency: $(READY)  ## more memories than slots: time to the first token; out/residency.json
	$(BIN)/python -m loadtests.residency --output out/residency.json

bench-prefix: $(READY)  ## a shared prefix in the cache: mixtures beside the base model; out/bench-prefix.json
	$(BIN)/python -m loadtests.prefix --output out/bench-prefix.json

bench-conversation: $(READY)  ## ten turns, another memory at each: tokens computed; out/conversation.json
	$(BIN)/python -m loadtests.conversation --output out/conversation.json

bench-trainer: $(READY)  ## seconds per memory, beside the plain PEFT loop; out/bench-trainer.json
	$(BIN)/python -m loadtests.trainer --output out/bench-trainer.json

bench-disguises: $(READY)  ## the default model with other numbers that compute the same; out/disguises.json
	$(BIN)/python -m loadtests.disguises --output out/disguises.json

bench-shapes: $(READY)  ## quality against bytes: ranks, layers, modules, types; out/shapes.json and .png
	$(BIN)/python -m loadtests.shapes --output out/shapes.json \
	  --questions vllm_mega/examples/questions.jsonl

bench-large: $(READY)  ## seconds and memory of 8B models, from slices of their shape; out/large.json
	$(BIN)/python -m loadtests.large --output out/large.json

bench-gpu: $(READY)  ## on a GPU: kernels, engine, trainer, a verdict a line; out/bench-gpu.json
	$(BIN)/python -m loadtests.gpu --output out/bench-gpu.json

bench-hook: $(READY)  ## gate and hook before the first token, 16 requests at a time; out/ttft.json
	$(BIN)/python -m loadtests.ttft --output out/ttft.json

bench-loop: $(READY)  ## how long the server's event loop is held, under adds and forgets; out/loop.json
	$(BIN)/python -m loadtests.loop --output out/loop.json

recitals: $(READY)  ## does vLLM recite what the trainer calls recalled, does it answer; out/recitals.json
	$(BIN)/python -m loadtests.recitals --output out/recitals.json --bank out/bank \
	  --questions vllm_mega/examples/questions.jsonl

loadtest: $(READY)  ## `vllm bench serve` against the real server, 5 minutes; out/loadtest.json
	$(BIN)/python -m loadtests.serve --output out/loadtest.json

churn: $(READY)  ## 1,000 requests during 1,000 updates and forgets, the worker stopped now and then; out/churn.json
	$(BIN)/python -m loadtests.churn --output out/churn.json

kills: $(READY)  ## 20 kills of each process of a server: nothing is left after 10 s; out/kills.json
	$(BIN)/python -m loadtests.kills --output out/kills.json

story: $(READY)  ## a memory told, trained, asked, changed, forgotten on the real server; out/story.json
	$(BIN)/python -m loadtests.story --output out/story.json

clean:  ## remove the virtual environment, the demo's output and every cache
	rm -rf .venv .sources out build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
