# The commands of this project; `make` alone lists them. Needs GNU make, bash and Python 3.11 or newer.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

# The port of `make dev`; the environment and the command line both win over this line.
PORT ?= 8000
export PORT
# More arguments for pytest: make test ARGS="-k outbox -x"
ARGS ?=
# The interpreter that .venv is made with. Empty: the first of the candidates that is new enough.
PYTHON ?=
PYTHON_CANDIDATES := python3 python3.14 python3.13 python3.12 python3.11

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LITESTAR := $(BIN)/litestar --app app.asgi:create_app
# uv is used where it is on the PATH, because it is faster; pip does the same.
UV := $(shell command -v uv)
PIP_INSTALL := $(if $(UV),uv pip install --quiet --python $(BIN)/python,$(BIN)/python -m pip install --quiet --disable-pip-version-check)

# What runs the reference application on this machine runs it in debug mode: that opens the dashboard, to the
# loopback address only. DEBUG=0 in the environment closes it.
dev dev-worker: export DEBUG ?= 1

.PHONY: help
help: ## list the targets
	@echo 'Usage: make <target>'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' $(firstword $(MAKEFILE_LIST)) | while IFS='|' read -r name what; do \
	  printf '  %-12s %s\n' "$$name" "$$what"; done
	@echo 'Variables: PORT=8000 (dev), ARGS="-k name" (test), PYTHON=python3.12 (install), DATA=1 (clean)'

.PHONY: install
install: $(STAMP) ## create .venv with everything that running, testing and checking need

# The lock serves `make dev` and `make dev-worker` started at the same time on a fresh checkout. Nothing is installed
# a second time unless a prerequisite changes; a .venv whose interpreter has gone is made anew.
$(STAMP): pyproject.toml constraints.txt
	@python=''; \
	for candidate in $(or $(PYTHON),$(PYTHON_CANDIDATES)); do \
	  if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	    python=$$candidate; break; \
	  fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo 'Python 3.11 or newer is needed; tried: $(or $(PYTHON),$(PYTHON_CANDIDATES)).' >&2; \
	  echo 'Install one, or name it: make install PYTHON=/path/to/python3' >&2; \
	  exit 1; \
	fi; \
	exec 9>$(VENV).lock; \
	"$$python" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)'; \
	if [ $(STAMP) -nt pyproject.toml ] && [ $(STAMP) -nt constraints.txt ]; then exit 0; fi; \
	if ! $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then rm -rf $(VENV); fi; \
	if [ -n "$(UV)" ]; then \
	  echo "installing into $(VENV) with uv and $$("$$python" --version)"; \
	  if [ ! -d $(VENV) ]; then uv venv --quiet --python "$$(command -v "$$python")" $(VENV); fi; \
	else \
	  if ! "$$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then \
	    echo "$$python cannot create virtual environments: its venv and ensurepip modules are missing." >&2; \
	    echo 'On Debian and Ubuntu: apt-get install python3-venv. Or install uv.' >&2; \
	    exit 1; \
	  fi; \
	  echo "installing into $(VENV) with pip and $$("$$python" --version); this takes about a minute"; \
	  if [ ! -x $(BIN)/pip ]; then "$$python" -m venv --clear $(VENV); fi; \
	fi; \
	$(PIP_INSTALL) -c constraints.txt -e '.[dev]'; \
	touch $(STAMP)

.PHONY: dev
dev: $(STAMP) ## run the reference application with a worker and reload, at http://localhost:8000
	@$(BIN)/python -m app.manage prepare
	@exec $(LITESTAR) tasks dev --port $(PORT)

.PHONY: dev-worker
dev-worker: $(STAMP) ## run a worker of its own, restarted on every edit
	@exec $(LITESTAR) workers run --reload

.PHONY: test
# In the order of their names the long ones come early, and the processes end together. Hundreds of processes import
# the library: it is compiled once, also where Python is told not to write bytecode.
test: $(STAMP) ## run the tests; ARGS goes to pytest
	@$(BIN)/python -m compileall -q backend
	@exec $(BIN)/python -m pytest -n auto --dist loadgroup --no-loadscope-reorder $(ARGS)

# Both supported majors of redis-py, and every supported interpreter that this machine has. `make test` has the
# newest redis-py and all servers; the queue on Redis is tested here with the older one, on the machine's own server
# only, and the other interpreters run what needs no server.
MATRIX := tests/unit tests/conformance
MATRIX_REDIS := tests/conformance/test_claiming.py tests/conformance/test_ending.py tests/integration/test_redis_queue.py
ONE_SERVER := not [redis-6.2 and not [redis-cluster and not [valkey and not [postgres
VERSIONS ?= 3.11 3.12 3.13
PYENV_ROOT ?= $(HOME)/.pyenv

.PHONY: test-matrix
test-matrix: $(STAMP) ## run the queues' tests on redis-py 7, and the unit tests on the other Pythons of this machine
	@$(MAKE) --no-print-directory install VENV=.venv-redis7
	@$(MAKE) --no-print-directory .test-redis7 VENV=.venv-redis7
	@for version in $(VERSIONS); do \
	  if $(BIN)/python -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$$version')"; then continue; fi; \
	  for python in python$$version $(PYENV_ROOT)/versions/$$version.*/bin/python3; do \
	    if "$$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then \
	      $(MAKE) --no-print-directory test VENV=.venv-$$version PYTHON=$$python \
	        ARGS="-m 'not network' -k '$(ONE_SERVER) and not [redis-7' $(MATRIX)"; \
	      continue 2; \
	    fi; \
	  done; \
	  echo "no Python $$version here"; \
	done

.PHONY: .test-redis7
.test-redis7:
	@$(PIP_INSTALL) 'redis>=7,<8'
	@exec $(BIN)/python -m pytest -n auto --dist loadgroup -m 'not network' -k '$(ONE_SERVER) and not [memory' \
	  $(MATRIX_REDIS)

# How many times longer than in `make test`. With 25: 150 workers killed, 200 stopped and 50 started on a fresh server,
# 50 servers killed, ten workers for 30 s without theirs. It takes about half an hour.
CHAOS ?= 10

.PHONY: chaos
chaos: $(STAMP) ## kill, freeze and cut off workers and brokers for some minutes; CHAOS=25 for half an hour
	@CHAOS=$(CHAOS) exec $(BIN)/python -m pytest -v tests/chaos $(ARGS)

.PHONY: bench
bench: $(STAMP) ## measure beside stock SAQ and the libraries of bench-peers; takes long, wants a quiet machine
	@exec $(BIN)/python -m benchmarks full $(ARGS)

.PHONY: bench-quick
bench-quick: $(STAMP) ## measure beside stock SAQ within a minute; the last line is JSON
	@exec $(BIN)/python -m benchmarks quick

.PHONY: bench-peers
bench-peers: $(STAMP) ## install other libraries for bench, each into an environment of its own
	@exec $(BIN)/python -m benchmarks peers

.PHONY: check
check: $(STAMP) ## lint, formatting, types, import order
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/lint-imports --no-logo --no-cache

.PHONY: format
format: $(STAMP) ## let ruff fix and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: screenshots
screenshots: $(STAMP) ## make docs/screenshots anew: each page of the dashboard; ARGS names some of them
	@exec $(BIN)/python -m tests.browser.screenshots $(ARGS)

.PHONY: wheel
wheel: $(STAMP) ## build the wheel and the sdist into dist/
	$(BIN)/python -m build

.PHONY: constraints
constraints: ## resolve constraints.txt anew (needs uv)
	uv pip compile --upgrade --universal --no-header --no-annotate --no-emit-index-url --python-version 3.11 \
	  --all-extras pyproject.toml -o constraints.txt

# Data is what a run leaves: the embedded server's folder with its jobs, the database. It is kept unless asked.
.PHONY: clean
clean: ## remove .venv, caches and builds; with DATA=1 also the jobs and databases of local runs
	rm -rf .venv .venv-* .venv.lock build dist
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name .git -prune -o -type d \( -name __pycache__ -o -name '*.egg-info' \) -print0 | xargs -0 rm -rf
ifeq ($(DATA),1)
	rm -rf .litestar-tasks
	find . -name .git -prune -o -type f \( -name '*.sqlite3' -o -name '*.sqlite3-*' -o -name '*.db' \) -print0 | xargs -0 rm -f
endif
