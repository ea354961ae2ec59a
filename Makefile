# make demo | test | lint | docs | torture | clean
# PYTHON picks the interpreter (3.10 or newer), HOST and PORT where the demo listens.

HOST ?= 127.0.0.1
PORT ?= 8000
BIN := .venv/bin
# Extra arguments for pytest: make test ARGS="tests/unit -x"
ARGS ?=

.PHONY: demo test torture lint docs clean

demo:
	@sh tools/venv.sh demo
	@$(BIN)/python testproject/demo.py --host "$(HOST)" --port "$(PORT)"

test:
	@sh tools/venv.sh test
	@rm -f .coverage .coverage.*
	$(BIN)/python -m coverage run -m pytest $(ARGS)
	@$(BIN)/python -m coverage combine -q
	@$(if $(ARGS),true,$(BIN)/python -m coverage report)

# The seeded and random tests, for longer and with other seeds.
torture:
	@sh tools/venv.sh test
	FLOSSE_TORTURE=1 $(BIN)/python -m pytest tests/bus/test_model.py tests/bus/test_stress.py --timeout=3600

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
	rm -rf .venv .tox .demo docs/_build dist .coverage .coverage.* .hypothesis .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
