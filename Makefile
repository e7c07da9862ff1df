# Gatehouse. `make` alone lists what there is.
.DEFAULT_GOAL := help
.PHONY: help install run test test-all lint ui serve monitor schedule study zoo bench clean

PYTHON ?= $(firstword $(shell command -v python3.11 python3 2>/dev/null))
BIN := .venv/bin
INSTALLED := .venv/.installed
PROFILE ?= default
WORKERS ?= 1
export GIT_PYTHON_REFRESH := quiet

help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  make run PROFILE=chest_xray DATA=FOLDER runs on your own images; profiles: default $(filter-out study_%,$(basename $(notdir $(wildcard profiles/*.yaml))))"

install: $(INSTALLED)  ## make .venv and install (the other commands do it when needed)

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v == (3, 11) else f"Gatehouse needs Python 3.11, but $(PYTHON) is {v[0]}.{v[1]}; install 3.11 or run make PYTHON=/path/to/python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing (two to four minutes the first time) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

run: $(INSTALLED)  ## the whole lifecycle: data, teacher, student, gates, promotion, dossier
	@$(BIN)/python -m flows.lifecycle --profile '$(PROFILE)' --data '$(DATA)'

test: $(INSTALLED)  ## the tests, with coverage of tasks/ (minutes)
	@$(BIN)/python -m pytest -m 'not end_to_end' -n 2 --dist loadfile --cov --cov-report=term:skip-covered --cov-fail-under=90

test-all: test  ## the tests, then whole runs on the embedded default (a quarter of an hour)
	@$(BIN)/python -m pytest -m end_to_end

lint: $(INSTALLED)  ## linter, formatter's check, type checker
	@$(BIN)/ruff check . && $(BIN)/ruff format --check --quiet . && $(BIN)/mypy

ui: $(INSTALLED)  ## Prefect's and MLflow's pages on loopback, until Ctrl-C
	@$(BIN)/python -m flows.ui

serve: $(INSTALLED)  ## serve the champion on loopback, if its evidence verifies
	@$(BIN)/python -m flows.serving

monitor: $(INSTALLED)  ## look at what the served model was asked: reports/monitoring.html
	@$(BIN)/python -m flows.monitoring

schedule: $(INSTALLED)  ## serve lifecycle and monitoring on their schedules, until Ctrl-C
	@$(BIN)/python -m flows.schedule

zoo: $(INSTALLED)  ## backdoored and clean teachers through the pipeline (hours): make zoo DATA=FOLDER; see docs/protection.md
	@$(BIN)/python -m flows.zoo --data '$(DATA)' --workers $(WORKERS)
	@$(BIN)/python -m flows.zoo --data '$(DATA)' --workers $(WORKERS) --only detect --draw 1

study: $(INSTALLED)  ## the study's Tables 3 to 9 measured again (hours): make study DATA=FOLDER; see docs/study.md
	@$(BIN)/python -m flows.study --profile '$(if $(filter default,$(PROFILE)),study_cpu,$(PROFILE))' --data '$(DATA)' --workers $(WORKERS)

bench: $(INSTALLED)  ## our attacks and detectors beside TrojanZoo's, ART's and torchattacks': reports/bench/*.json
	@test -d .gatehouse/bench/trojanvision || $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target .gatehouse/bench trojanzoo==2.0.3
	@test -d .gatehouse/bench/torchattacks || $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target .gatehouse/bench torchattacks==3.5.1
	@OMP_NUM_THREADS=1 $(BIN)/python benchmarks/beside_attacks.py
	@OMP_NUM_THREADS=1 $(BIN)/python benchmarks/beside_trojanzoo.py
	@OMP_NUM_THREADS=1 $(BIN)/python benchmarks/private_grid.py $(if $(DATA),--data $(DATA)/synthea)

clean:  ## delete everything that runs made (data, models, reports, registry, caches, keys), not .venv
	@test ! -f .gatehouse/overlay.json || $(BIN)/python -c 'from flows.profile import apply_profile; apply_profile("default", None)'
	@rm -rf .gatehouse cards/feed.yaml .dvc/cache .dvc/tmp dvc.lock data/teacher_task data/student_task models mlflow.db* mlartifacts
	@find reports -mindepth 1 -maxdepth 1 ! -name study ! -name bench -exec rm -rf {} +
