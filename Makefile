# captioner: `make serve` captions a first image, `make test` runs all tests. README.md says more.
PYTHON ?= python3
MODEL ?= pretrained
DATA ?= data/coco
SPLIT ?= val2017
BIN := .venv/bin
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
limit = $(if $(LIMIT),--limit "$(LIMIT)")
BIOME := @biomejs/biome@2.6.8

.PHONY: help serve stop archive data train validate eval compare score load-test benchmark autotune profile batch demo \
  soak test test-unit test-adversarial fuzz lint sbom audit clean

help: # list the targets
	@awk -F ':.*## ' '/^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' Makefile
	@printf '\nMore: '; awk -F: '/^[a-z-]+:.*[^#]# / {printf "%s ", $$1}' Makefile; printf '\nEach is described in the Makefile.\n'

##@ Serve
serve: archive ## start TorchServe with MODEL on loopback and caption a sample
	$(BIN)/python -m deploy.serve start

stop: ## stop the server that `make serve` started
	@if test -e .venv/serve.stamp; then $(BIN)/python -m deploy.serve stop; else echo "No server was running that 'make serve' started."; fi

# CALIBRATE=DIR first makes the bundle's 8-bit encoder with the training images in DIR.
archive: .venv/serve.stamp $(if $(CALIBRATE),.venv/quantize.stamp) ## pack the bundle MODEL as VERSION (1.0) into model_store/captioner.mar
	$(BIN)/python -m deploy.archive "$(MODEL)" $(if $(VERSION),--version "$(VERSION)") \
	  $(if $(CALIBRATE),--calibrate "$(CALIBRATE)") $(ARGS)

##@ Train and score
data: .venv/eval.stamp ## download SPLITS of COCO (val2017), e.g. SPLITS="karpathy_train karpathy_val", into DATA
	$(BIN)/python -m training.data.download_coco "$(DATA)" $(if $(SPLITS),--splits $(SPLITS)) $(ARGS)

train: .venv/train.stamp ## train the preset CONFIG on DATA; ARGS overrides settings
	@: $(if $(CONFIG),,$(error CONFIG is missing. Name a preset of training/configs: CONFIG=…))
	$(BIN)/python -m training.train "$(CONFIG)" "$(DATA)" $(ARGS)

eval: .venv/eval.stamp ## caption SPLIT (val2017) of DATA (data/coco) through ENDPOINT, LIMIT=500 for the first 500 images, and score it
	$(BIN)/python -m eval.run "$(DATA)" "$(SPLIT)" $(limit) $(OPTIONS) $(if $(RUN),--run "$(RUN)") \
	  $(if $(ENDPOINT),--endpoint "$(ENDPOINT)") $(if $(PROTOCOL),--protocol "$(PROTOCOL)") \
	  $(if $(BASELINE),--baseline "$(BASELINE)") $(if $(TRAIN),--train "$(TRAIN)") $(ARGS)

compare: .venv/eval.stamp ## compare the runs A and B on SPLIT of DATA, with significance
	@: $(if $(and $(A),$(B)),,$(error A or B is missing. Name two runs: A=… B=…))
	$(BIN)/python -m eval.compare "$(A)" "$(B)" "$(DATA)" "$(SPLIT)" $(limit) $(ARGS)

score: .venv/eval.stamp ## score the file RESULTS (COCO results format) on SPLIT of DATA
	@: $(if $(RESULTS),,$(error RESULTS is missing. Name a file in COCO results format: RESULTS=…))
	$(BIN)/python -m eval.score "$(RESULTS)" "$(DATA)" "$(SPLIT)" $(limit) $(ARGS)

validate: .venv/train.stamp # score the bundle MODEL on SPLIT of DATA in this process
	$(BIN)/python -m training.validate "$(MODEL)" "$(DATA)" "$(SPLIT)" $(ARGS)

# Measure and operate
load-test: .venv/eval.stamp # load ENDPOINT with images: ARGS="--concurrency 1 8 --rates 10 --images DIR"
	$(BIN)/python -m eval.load_test $(or $(ENDPOINT),http://127.0.0.1:8080) $(OPTIONS) $(ARGS)

benchmark: .venv/serve.stamp .venv/eval.stamp # serve MODEL in several ways side by side: ARGS="--variants baseline default"
	$(BIN)/python -m deploy.benchmark --model "$(MODEL)" $(OPTIONS) $(ARGS)

autotune: .venv/serve.stamp .venv/eval.stamp # find the best workers, threads, batch size and delay for MODEL on this machine
	$(BIN)/python -m deploy.benchmark --tune --name tune --model "$(MODEL)" $(OPTIONS) $(ARGS)

profile: .venv/serve.stamp .venv/eval.stamp # time each stage of MODEL in one process, beside its limit
	$(BIN)/python -m deploy.benchmark.profile_stages --model "$(MODEL)" $(ARGS)

batch: .venv/batch.stamp # caption all IMAGES into Parquet files in OUTPUT; run it again to resume
	@: $(if $(IMAGES),,$(error IMAGES is missing. Name a directory or Parquet files: IMAGES=…))
	@: $(if $(OUTPUT),,$(error OUTPUT is missing. Name a directory: OUTPUT=…))
	$(BIN)/python -m deploy.batch "$(IMAGES)" "$(OUTPUT)" --model "$(MODEL)" $(if $(OPTIONS),--options $(OPTIONS)) $(ARGS)

demo: .venv/serve.stamp .venv/eval.stamp # two servers behind HAProxy under load: a crash, a canary, a rolling upgrade
	$(BIN)/python -m deploy.demo --model "$(MODEL)" $(ARGS)

soak: .venv/serve.stamp .venv/eval.stamp # keep a server of MODEL under mixed load for MINUTES (30) and report losses and growth
	$(BIN)/python -m deploy.soak --model "$(MODEL)" $(if $(MINUTES),--minutes "$(MINUTES)") $(ARGS)

##@ Develop
lint: .venv/test.stamp ## check style, types, imports and spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	if command -v npx > /dev/null; then npx --yes $(BIOME) check --error-on-warnings; else echo "No npx: JavaScript was not checked."; fi

test: .venv/test.stamp ## run all tests
	$(BIN)/python -m pytest $(ARGS)

test-unit: .venv/test.stamp ## run the unit tests
	$(BIN)/python -m pytest tests/unit $(ARGS)

test-adversarial: .venv/test.stamp # send hostile images and requests to a private server and print the results
	$(BIN)/python -m tests.adversarial

fuzz: .venv/test.stamp # fuzz TARGET (image, request): ARGS="--minutes 10"
	@: $(if $(TARGET),,$(error TARGET is missing. Name what to fuzz: TARGET=image or TARGET=request))
	$(BIN)/python -m tests.fuzz "$(TARGET)" $(ARGS)

sbom: .venv/test.stamp # write sbom.json, the CycloneDX bill of materials of .venv
	$(BIN)/cyclonedx-py environment --no-validate --pyproject pyproject.toml --output-reproducible -o sbom.json $(BIN)/python

audit: .venv/test.stamp # ask OSV for known vulnerabilities of the pinned versions
	$(BIN)/pip-audit --requirement requirements/constraints.txt --no-deps --disable-pip --vulnerability-service osv

clean: stop ## remove the environment, the archive and the logs
	rm -rf .venv model_store/*.mar logs

PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements/constraints.txt
define make_venv
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "captioner needs Python 3.11 or newer. Name one: make PYTHON=…")'
@$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
@echo "Installing the extra '$(@F:.stamp=)' (a few minutes the first time)"
endef

.venv/%.stamp: pyproject.toml requirements/constraints.txt
	$(make_venv)
	$(PIP) --editable '.[$*]'
	@touch $@

# Scoring needs no PyTorch: the extra alone, without the dependencies of the package.
.venv/eval.stamp: pyproject.toml requirements/constraints.txt
	$(make_venv)
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["eval"], sep="\n")' \
	  | $(PIP) --requirement /dev/stdin
	$(PIP) --no-deps --editable .
	@touch $@
