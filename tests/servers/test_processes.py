"""The suite's own processes: what holds for them wherever the suite itself was started from."""

from __future__ import annotations

import signal
import sys

from tests.processes import Process

#: A program that goes on until it is ended.
SLEEPS = "import time; print('asleep', flush=True); time.sleep(60)"


def test_they_hear_ctrl_c_also_when_the_suite_does_not(tmp_path):
    """As it is with ``make test &`` in a script: there SIGINT is ignored."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Process([sys.executable, "-c", SLEEPS], log=tmp_path / "log") as process:
            process.wait_for(lambda: "asleep" in process.output(), "it to begin")
            assert process.stop(signal.SIGINT) < 10
    finally:
        signal.signal(signal.SIGINT, before)
    assert "KeyboardInterrupt" in process.output()
