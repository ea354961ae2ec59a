# make demo | test | lint | docs | torture | bench | clean
# PYTHON picks the interpreter (3.10 or newer), HOST and PORT where the demo listens. BUS is what
# carries its events: memory; or redis or postgres, with one of its own and two server processes.

HOST ?= 127.0.0.1
PORT ?= 8000
BUS ?= memory
BIN := .venv/bin
# Extra arguments for pytest: make test ARGS="tests/unit -x". With any it runs in one process,
# else in as many as WORKERS says, a file of tests in each.
ARGS ?=
WORKERS ?= 3

.PHONY: demo test torture bench lint docs clean

demo:
	@case "$(BUS)" in memory|redis|postgres) ;; \
		*) echo "error: BUS=$(BUS): expected one of memory, redis, postgres." >&2; exit 1 ;; esac
	@sh tools/venv.sh demo$(patsubst %,-%,$(filter-out memory,$(BUS)))
	@# exec: so that a signal to make reaches the demo
	@exec $(BIN)/python -m testproject.demo --bus "$(BUS)" --host "$(HOST)" --port "$(PORT)"

test:
	@sh tools/venv.sh test
	@rm -f .coverage .coverage.*
	$(BIN)/python -m coverage run -m pytest \
		$(or $(ARGS),--numprocesses=$(WORKERS) --dist=loadfile --no-loadscope-reorder)
	@$(BIN)/python -m coverage combine -q
	@$(if $(ARGS),true,$(BIN)/python -m coverage report)

# The seeded and random tests, for longer and with other seeds.
torture:
	@sh tools/venv.sh test
	FLOSSE_TORTURE=1 $(BIN)/python -m pytest tests/bus/test_model.py tests/bus/test_stress.py tests/simulation tests/unit/test_sse_fuzz.py \
		tests/servers/test_big_streams.py tests/servers/test_dead_readers.py \
		tests/servers/test_proxies.py tests/clients tests/torture --timeout=3600 $(ARGS)

# What brokers and streams cost, as ratios in one run: about three quarters of an hour on an idle
# machine. benchmarks/report.py --write puts the latter into docs/. What is not here (nginx with
# nchan, Pushpin, a Python that django-bolt takes) has a line that says so.
bench:
	@sh tools/venv.sh test
	@$(BIN)/python benchmarks/brokers.py redis
	@$(BIN)/python benchmarks/brokers.py postgres
	@$(BIN)/python benchmarks/streams.py all
	@$(BIN)/python benchmarks/report.py --plot

lint:
	@sh tools/venv.sh lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs:
	@sh tools/venv.sh docs
	$(BIN)/sphinx-build -W -n -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

clean:
	rm -rf .venv .bench .cache .tox .demo docs/_build dist .coverage .coverage.* .hypothesis .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
