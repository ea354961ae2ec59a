"""What ``make demo`` runs, and the one line that it says when it cannot."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys

import pytest

from tests.processes import ROOT, Process, accepts, free_port

pytestmark = pytest.mark.server

DEMO = [sys.executable, "-m", "testproject.demo"]


def test_the_demo(tmp_path, follow):
    port = free_port()
    command = [*DEMO, f"--port={port}", "--traffic=20", f"--data={tmp_path}"]
    with Process(command, log=tmp_path / "log") as demo:
        demo.wait_for(lambda: accepts(port), "the demo")
        assert f"http://127.0.0.1:{port}/" in demo.output()
        assert "demo / demo (staff)" in demo.output()
        events, _ = follow(f"http://127.0.0.1:{port}/events/", "orders")
        seen = [json.loads(next(events).data)["model"] for _ in range(5)]
        assert seen == ["shop.order"] * 5
        demo.stop(signal.SIGINT)
        assert demo.process.returncode == 0
        assert "Traceback" not in demo.output()


@pytest.mark.parametrize("address", ["taken", "nonsense"])
def test_an_address_that_cannot_be_is_one_line(address):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        host = "127.0.0.1" if address == "taken" else "no.such.host.invalid"
        result = subprocess.run(
            [*DEMO, f"--host={host}", f"--port={port}"],
            capture_output=True, text=True, timeout=60, check=False, cwd=ROOT,
        )  # fmt: skip
    assert result.returncode == 1
    [line] = result.stderr.splitlines()
    assert line.startswith(f"error: cannot listen on {host}:{port}")
    assert "make demo PORT=" in line


@pytest.mark.parametrize(
    ("python", "message"),
    [
        ("no-such-python", "PYTHON=no-such-python: no such program."),
        ("false", "Python 3.10 or newer is needed."),
    ],
)
def test_a_python_that_will_not_do_is_one_line(tmp_path, python, message):
    (tmp_path / "tools").mkdir()
    script = tmp_path / "tools" / "venv.sh"
    script.write_text((ROOT / "tools" / "venv.sh").read_text())
    result = subprocess.run(
        ["sh", str(script), "demo"], env={"PATH": "/usr/bin:/bin", "PYTHON": python},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert result.returncode == 1
    [line] = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not (tmp_path / ".venv").exists()


def test_a_python_without_venv_is_one_line(tmp_path):
    (tmp_path / "tools").mkdir()
    script = tmp_path / "tools" / "venv.sh"
    script.write_text((ROOT / "tools" / "venv.sh").read_text())
    python = tmp_path / "python-without-venv"
    python.write_text(
        f'#!/bin/sh\ncase "$*" in *venv*) exit 1 ;; esac\nexec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    result = subprocess.run(
        ["sh", str(script), "demo"], env={"PATH": "/usr/bin:/bin", "PYTHON": str(python)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert result.returncode == 1
    [line] = result.stderr.splitlines()
    assert "has no venv module" in line
