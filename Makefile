# Two commands do everything on a machine with Python 3.11, make and a compiler:
#   make demo    sets up, then runs a small true grid on synthetic data
#   make test    sets up, then runs the tests
PYTHON  ?= python3.11
VENV    ?= .venv
KILLS   ?= 1000
DAMAGES ?= 500
DISKS   ?= 100
BIN     := $(VENV)/bin
DONE    := $(VENV)/.installed
ARCH    := test_resnet
DEMO    := --store demo/store --protocol demo --arch $(ARCH)

.PHONY: demo test test-all lint speed torture clean

$(DONE): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt -e '.[dev,slurm,ray,mri,dicom]'
	touch $@

demo: $(DONE)
	$(BIN)/bench run $(DEMO) --mode frozen --target demo:skin --target demo:grey \
	  --source none --source patterns:near --source patterns:middle --source patterns:far \
	  --fusion none --fusion concat
	$(BIN)/bench run $(DEMO) --mode finetune --epochs 15 --set recipe.lr=3e-3 \
	  --target demo:skin --target demo:grey --source none
	$(BIN)/bench distance --store demo/store --arch $(ARCH) --size 32 --limit 100 \
	  --probe patterns:broad --method task2vec --method otdd --method scores:logme --method expert \
	  --target demo:skin --target demo:grey \
	  --source patterns:near --source patterns:middle --source patterns:far
	$(BIN)/bench leaderboard --store demo/store
	$(BIN)/bench transfer --store demo/store --mode frozen
	$(BIN)/bench recommend --store demo/store --target demo:skin --mode frozen
	$(BIN)/bench explain --store demo/store --target demo:skin --images 4 --figures
	$(BIN)/bench report --store demo/store --out demo/report
	@echo "Open demo/report/index.html"

test: $(DONE)
	$(BIN)/pytest

test-all: $(DONE)
	$(BIN)/pytest -m 'not gpu and not network'

lint: $(DONE)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright --level error
	$(BIN)/lint-imports

speed: $(DONE)
	$(BIN)/python tests/speed.py

# Kills, damages and full disks at random, then the same command; see docs/store.md.
torture: $(DONE)
	$(BIN)/python tests/torture.py --kills $(KILLS) --damages $(DAMAGES) --disks $(DISKS)

clean:
	rm -rf $(VENV) demo build dist
