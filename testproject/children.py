"""Processes that the demo runs: they end together, whoever of them or of us is the first."""

import ctypes
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
READY_WITHIN = 30  # seconds
GONE_WITHIN = 10

if sys.platform == "linux":
    _prctl = ctypes.CDLL(None).prctl
    PR_SET_PDEATHSIG = 1


class Ended(Exception):
    """A process ended that should not have."""


class Children:
    """Leaving the context ends them all, the last that was started first."""

    def __init__(self, logs):
        self.logs = logs
        self.started = []  # (name, process, the signal that ends it)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for signum in STOPS:
            signal.signal(signum, signal.SIG_IGN)  # it takes a second: do not leave half-way
        for _, process, stop in reversed(self.started):
            if process.poll() is None:
                process.send_signal(stop)
            try:
                process.wait(GONE_WITHIN)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def start(self, name, command, *, ready=None, stop=signal.SIGTERM, **options):
        """Run a command, its output in a log, and wait until ``ready()`` is true."""

        def end_with_parent():  # also when the parent cannot end it, because it was killed
            if sys.platform == "linux":
                _prctl(PR_SET_PDEATHSIG, int(stop))

        with self.log(name).open("wb") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the demo, which ends them in order
                preexec_fn=end_with_parent, **{"cwd": ROOT, **options},
            )  # fmt: skip
        self.started.append((name, process, stop))
        deadline = time.monotonic() + READY_WITHIN
        while ready and not ready():
            self.check()
            if time.monotonic() > deadline:
                raise Ended(f"{name} was not ready within {READY_WITHIN} s. {self._said(name)}")
            time.sleep(0.05)

    def check(self):
        """Raise if one has ended."""
        for name, process, _ in self.started:
            status = process.poll()
            if status is not None:
                how = f"was killed by signal {-status}" if status < 0 else f"ended ({status})"
                raise Ended(f"{name} {how}. {self._said(name)}")

    def watch(self):
        """Wait until one ends."""
        while True:
            self.check()
            time.sleep(0.2)

    def log(self, name):
        return self.logs / f"{name.replace(' ', '-')}.log"

    def _said(self, name):
        path = self.log(name)
        lines = path.read_text(errors="replace").splitlines()[-20:]
        said = "".join(f"\n  {line}" for line in lines) or " nothing"
        return f"The end of its log, {shown(path)}:{said}"


def shown(path):
    """Return a path as short as it can be said here."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
