# captioner: `make serve` for a first caption, `make test` for all tests. README.md says more.
PYTHON ?= python3
MODEL ?= pretrained
BIN := .venv/bin
need_data = $(if $(DATA),,$(error name a folder in COCO's layout: DATA=…))

.PHONY: help serve stop archive data train validate eval compare score bench versus tune stages bulk demo soak test hostile fuzz lint sbom audit clean

help: ## list what can be made
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 12

serve: archive ## start TorchServe with MODEL on loopback, and caption a sample
	@$(BIN)/python -m deploy.serve start

stop: ## stop it
	@if test -e .venv/serve.stamp; then $(BIN)/python -m deploy.serve stop; else echo "No server was running that 'make serve' started."; fi

archive: .venv/serve.stamp ## pack the bundle MODEL as VERSION (1.0) into model_store/captioner.mar
	@$(BIN)/python -m deploy.archive "$(MODEL)" $(if $(VERSION),--version "$(VERSION)") $(ARGS)

data: .venv/train.stamp ## download COCO (images, captions, Karpathy splits) into DATA
	@: $(need_data)
	@$(BIN)/python -m training.data.download_coco "$(DATA)" $(ARGS)

train: .venv/train.stamp ## train the preset CONFIG on DATA; ARGS overrides settings
	@: $(if $(CONFIG),,$(error name a preset of training/configs: make train CONFIG=… DATA=…)) $(need_data)
	@$(BIN)/python -m training.train "$(CONFIG)" "$(DATA)" $(ARGS)

validate: .venv/train.stamp ## score the bundle MODEL on SPLIT of DATA, in this process
	@: $(need_data) $(if $(SPLIT),,$(error name a split of the data: SPLIT=…))
	@$(BIN)/python -m training.validate "$(MODEL)" "$(DATA)" "$(SPLIT)" $(ARGS)

eval: .venv/eval.stamp ## caption SPLIT of DATA through ENDPOINT and score it, into eval/results/RUN; OPTIONS="beam_size=3"
	@: $(need_data) $(if $(SPLIT),,$(error name a split of the data: SPLIT=…))
	@$(BIN)/python -m eval.run "$(DATA)" "$(SPLIT)" $(OPTIONS) $(if $(RUN),--run "$(RUN)") $(if $(ENDPOINT),--endpoint "$(ENDPOINT)") \
	  $(if $(PROTOCOL),--protocol "$(PROTOCOL)") $(if $(BASELINE),--baseline "$(BASELINE)") $(if $(TRAIN),--train "$(TRAIN)") $(ARGS)

compare: .venv/eval.stamp ## the runs A and B on SPLIT of DATA, with significance
	@: $(need_data) $(if $(A),,$(error name two runs: A=… B=…)) $(if $(B),,$(error name two runs: A=… B=…)) $(if $(SPLIT),,$(error name a split of the data: SPLIT=…))
	@$(BIN)/python -m eval.compare "$(A)" "$(B)" "$(DATA)" "$(SPLIT)" $(ARGS)

score: .venv/eval.stamp ## score the file RESULTS in COCO's format on SPLIT of DATA
	@: $(need_data) $(if $(RESULTS),,$(error name a file in COCO's results format: RESULTS=…)) $(if $(SPLIT),,$(error name a split of the data: SPLIT=…))
	@$(BIN)/python -m eval.score "$(RESULTS)" "$(DATA)" "$(SPLIT)" $(ARGS)

bench: .venv/eval.stamp ## load ENDPOINT (one or more) with pictures: ARGS="--concurrency 1 8 --rates 10 --pictures DIR"
	@$(BIN)/python -m eval.load_test $(or $(ENDPOINT),http://127.0.0.1:8080) $(OPTIONS) $(ARGS)

demo: .venv/serve.stamp .venv/eval.stamp ## two servers behind HAProxy under load: one killed, a canary, a rolling upgrade
	@$(BIN)/python -m deploy.demo --bundle "$(MODEL)" $(ARGS)

soak: .venv/serve.stamp .venv/eval.stamp ## a server of MODEL under mixed load for MINUTES (30): what is lost, wrong, or grows
	@$(BIN)/python -m deploy.soak --model "$(MODEL)" $(if $(MINUTES),--minutes "$(MINUTES)") $(ARGS)

versus: .venv/serve.stamp .venv/eval.stamp ## serve MODEL in several ways side by side, the usual one among them: ARGS="--variants baseline default"
	@$(BIN)/python -m deploy.benchmark --model "$(MODEL)" $(OPTIONS) $(ARGS)

tune: .venv/serve.stamp .venv/eval.stamp ## find this machine's best workers, threads, batch and delay for MODEL
	@$(BIN)/python -m deploy.benchmark --tune --name tune --model "$(MODEL)" $(OPTIONS) $(ARGS)

stages: .venv/serve.stamp .venv/eval.stamp ## where a picture's time goes in one process, beside its limits
	@$(BIN)/python -m deploy.benchmark.profile_stages --model "$(MODEL)" $(ARGS)

bulk: .venv/bulk.stamp ## caption all of PICTURES into Parquet in OUTPUT; the same again goes on where it stopped; OPTIONS, ARGS
	@: $(if $(PICTURES),,$(error name a folder, or Parquet files: PICTURES=…)) $(if $(OUTPUT),,$(error name a folder: OUTPUT=…))
	@$(BIN)/python -m deploy.batch "$(PICTURES)" "$(OUTPUT)" --model "$(MODEL)" $(if $(OPTIONS),--options $(OPTIONS)) $(ARGS)

test: .venv/test.stamp ## run all tests
	@$(BIN)/python -m pytest $(ARGS)

hostile: .venv/test.stamp ## send a server of its own all that is hostile, and print what came of it
	@$(BIN)/python -m tests.adversarial

fuzz: .venv/test.stamp ## feed TARGET (image, request) with ever new inputs: ARGS="--minutes 10"
	@: $(if $(TARGET),,$(error name what to fuzz: TARGET=image or TARGET=request))
	@$(BIN)/python -m tests.fuzz "$(TARGET)" $(ARGS)

lint: .venv/test.stamp ## check style and format
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

sbom: .venv/audit.stamp ## write sbom.json, CycloneDX's bill of what is installed in .venv
	@$(BIN)/cyclonedx-py environment --no-validate --pyproject pyproject.toml --output-reproducible -o sbom.json $(BIN)/python

audit: .venv/audit.stamp ## ask OSV whether a pinned version is known to be vulnerable; 3 where it can't be asked
	@$(BIN)/python -m deploy.audit $(ARGS)

.venv/%.stamp: requirements/%.txt requirements/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "captioner needs Python 3.11 or newer; name one with make PYTHON=…")'
	@echo "Installing requirements/$*.txt (a few minutes the first time: PyTorch is several GB)"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/$*.txt
	@touch $@

.venv/bulk.stamp: requirements/serve.txt
.venv/train.stamp: requirements/serve.txt requirements/eval.txt
.venv/test.stamp: requirements/serve.txt requirements/eval.txt requirements/train.txt requirements/bulk.txt requirements/audit.txt

clean: stop ## remove what was made: environment, archive, logs
	rm -rf .venv model_store logs
