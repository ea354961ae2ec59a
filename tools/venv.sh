#!/bin/sh
# Make .venv, if it is missing, with this package and one dependency group of pyproject.toml.
# Usage: tools/venv.sh GROUP      Environment: PYTHON, an interpreter to use.
set -eu
group=$1
cd "$(dirname "$0")/.."

fail() {
    echo "error: $*" >&2
    exit 1
}

new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        command -v "$PYTHON" >/dev/null 2>&1 || fail "PYTHON=$PYTHON: no such program."
        new_enough "$PYTHON" || fail "PYTHON=$PYTHON is $("$PYTHON" --version 2>&1); Python 3.10 or newer is needed."
        python=$PYTHON
        return
    fi
    for python in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
        new_enough "$python" && return
    done
    command -v python3 >/dev/null 2>&1 || fail "no python3 found; install Python 3.10 or newer, or set PYTHON."
    fail "python3 is $(python3 --version 2>&1); Python 3.10 or newer is needed. Install one, or set PYTHON."
}

if [ -x .venv/bin/python ] && ! .venv/bin/python -c '' >/dev/null 2>&1; then
    rm -rf .venv # its interpreter is gone
fi

uv=
if command -v uv >/dev/null 2>&1 && uv pip install --help 2>/dev/null | grep -q -- --group; then
    uv=yes
fi

if [ ! -x .venv/bin/python ]; then
    find_python
    echo "Making .venv with $("$python" --version 2>&1) ..."
    if [ -n "$uv" ]; then
        uv venv --quiet --seed --python "$(command -v "$python")" .venv || fail "uv could not make .venv."
    else
        "$python" -c 'import venv, ensurepip' >/dev/null 2>&1 ||
            fail "$python has no venv module. Install it (Debian and Ubuntu: apt install python3-venv) or install uv."
        "$python" -m venv .venv || fail "$python -m venv could not make .venv."
    fi
fi

stamp=.venv/.installed-$group
wanted=$(cksum <pyproject.toml)
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    echo "Installing what '$group' needs ..."
    if [ -n "$uv" ]; then
        uv pip install --quiet --python .venv/bin/python --editable . --group "$group" || fail "uv could not install '$group'."
    else
        .venv/bin/python -m pip --version >/dev/null 2>&1 ||
            .venv/bin/python -m ensurepip >/dev/null 2>&1 || fail ".venv has no pip; remove it and try again."
        # Dependency groups came with pip 25.1.
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1' || fail "pip could not be upgraded."
        .venv/bin/python -m pip install --quiet --editable . --group "$group" || fail "pip could not install '$group'."
    fi
    echo "$wanted" >"$stamp"
fi
