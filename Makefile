# Two commands do everything on a machine with Python 3.11, make and a compiler: demo and test.
PYTHON  ?= python3.11
VENV    ?= .venv
KILLS   ?= 1000
DAMAGES ?= 500
DISKS   ?= 100
BIN     := $(VENV)/bin
DONE    := $(VENV)/.installed
CODE    := benchmark sources targets similarity reports
ARCH    := test_resnet
DEMO    := --store demo/store --protocol demo --arch $(ARCH)

.PHONY: help demo test test-all check lint format speed calibrate torture clean
.DEFAULT_GOAL := help

help:  ## what there is to make
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

$(DONE): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --compile-bytecode -e '.[dev,slurm,ray,mri,dicom]'
	$(BIN)/python -m compileall -q $(CODE) || true  # where Python may not write it as it goes
	touch $@

demo: $(DONE)  ## sets up, then runs a small true grid on synthetic data, to a page
	$(BIN)/bench run $(DEMO) --mode frozen --target demo:skin --target demo:grey \
	  --source none --source patterns:near --source patterns:middle --source patterns:far \
	  --fusion none --fusion concat
	$(BIN)/bench run $(DEMO) --mode finetune --target demo:skin --target demo:grey --source none
	$(BIN)/bench distance --store demo/store --arch $(ARCH) --size 32 --limit 100 \
	  --protocol demo --probe patterns:broad --method task2vec --method otdd --method scores:logme --method expert \
	  --target demo:skin --target demo:grey \
	  --source patterns:near --source patterns:middle --source patterns:far
	$(BIN)/bench leaderboard --store demo/store
	$(BIN)/bench transfer --store demo/store --mode frozen
	$(BIN)/bench recommend --store demo/store --target demo:skin --mode frozen
	$(BIN)/bench explain --store demo/store --target demo:skin --images 4 --figures
	$(BIN)/bench report --store demo/store --out demo/report
	@echo "Open demo/report/index.html. Real data, nothing to train: $(BIN)/bench demo"

test: $(DONE)  ## sets up, then runs the tests
	$(BIN)/pytest

test-all: $(DONE)  ## the tests that take minutes too
	$(BIN)/pytest -m 'not gpu and not network'

check: lint test  ## all that has to pass before a change is offered

format: $(DONE)  ## writes every file as it has to be
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format --quiet .

lint: $(DONE)  ## form, types and who may import whom
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright --level error
	$(BIN)/lint-imports

speed: $(DONE)  ## how long things take, beside their marks
	$(BIN)/python tests/speed.py

calibrate: $(DONE)  ## how often verdicts are right, beside their marks
	$(BIN)/python tests/calibrate.py

torture: $(DONE)  ## kills, damages and full disks at random, then the same command
	$(BIN)/python tests/torture.py --kills $(KILLS) --damages $(DAMAGES) --disks $(DISKS)

clean:  ## takes away the environment and the demo
	rm -rf $(VENV) demo build dist
