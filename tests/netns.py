"""Two hosts with a cable between them that can be cut: network namespaces, which take Linux and root.

What a peer that has vanished does to a connection cannot be had on the loopback interface: there the
kernel of both sides is the same, and says so.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import subprocess
import threading

_CLONE_NEWNET = 0x40000000
ADDRESS = "10.213.0.1"


class Cable:
    """``near`` is where the server is, ``far`` its clients."""

    def __init__(self):
        self.near, self.far = (f"flosse-{os.getpid()}-{end}" for end in ("near", "far"))

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            for name in (self.near, self.far):
                _ip("netns", "add", name)
                stack.callback(_ip, "netns", "del", name)
                _ip("-n", name, "link", "set", "lo", "up")
            _ip(
                "-n",
                self.near,
                "link",
                "add",
                "cable",
                "type",
                "veth",
                "peer",
                "cable",
                "netns",
                self.far,
            )
            _ip("-n", self.near, "addr", "add", f"{ADDRESS}/24", "dev", "cable")
            _ip("-n", self.far, "addr", "add", "10.213.0.2/24", "dev", "cable")
            for name in (self.near, self.far):
                _ip("-n", name, "link", "set", "cable", "up")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc):
        self._stack.close()

    @contextlib.contextmanager
    def at_near(self):
        """Be there with the calling thread, and whatever threads and processes it starts."""
        with open("/proc/thread-self/ns/net") as before:
            _enter(self.near)
            try:
                yield
            finally:
                _setns(before.fileno())

    def connect(self, port, count):
        """Return connections from the far side to a port of the near one."""
        socks = []

        def run():
            _enter(self.far)
            for _ in range(count):
                sock = socket.create_connection((ADDRESS, port), timeout=10)
                sock.setblocking(False)
                socks.append(sock)

        # A thread for it: this one stays where it is. A socket stays where it was made.
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        assert len(socks) == count
        return socks

    def cut(self):
        """From now on whatever is sent is lost, and nobody is told."""
        _ip("-n", self.far, "link", "set", "cable", "down")


def _ip(*args):
    subprocess.run(["ip", *args], check=True, timeout=10)


def _enter(name):
    with open(f"/run/netns/{name}") as file:
        _setns(file.fileno())


def _setns(fd):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
