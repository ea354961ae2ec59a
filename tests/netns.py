"""Two hosts with a cable between them that can be cut: network namespaces, which take Linux and root.

What a peer that has vanished does to a connection cannot be had on the loopback interface: there the
kernel of both sides is the same, and says so.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import heapq
import os
import random
import select
import socket
import struct
import subprocess
import threading
import time

_CLONE_NEWNET = 0x40000000
#: linux/if_tun.h
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
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
            self._plug(stack)
            for name, address in ((self.near, ADDRESS), (self.far, "10.213.0.2")):
                _ip("-n", name, "addr", "add", f"{address}/24", "dev", "cable")
                _ip("-n", name, "link", "set", "cable", "up")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc):
        self._stack.close()

    def _plug(self, stack):
        ends = ["cable", "type", "veth", "peer", "cable", "netns", self.far]
        _ip("-n", self.near, "link", "add", *ends)

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
                sock = socket.create_connection((ADDRESS, port), timeout=30)
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


class Radio(Cable):
    """A link on which packets to the far end take ``delay`` seconds and are lost now and then, and
    that carries ``rate`` bits a second in each direction.

    It is made of TUN devices and a thread, as not every kernel has netem.
    """

    #: Seconds that a packet may have to wait for its turn. Beyond, it is lost.
    QUEUE = 2.0

    def __init__(self, *, delay, loss, rate):
        super().__init__()
        self._delay, self._loss, self._rate = delay, loss, rate
        self._random = random.Random(5)
        self._cut = self._leaving = False
        #: How many packets have arrived, and how many have not.
        self.carried = self.lost = 0

    def cut(self):
        self._cut = True

    def _plug(self, stack):
        near, far = (stack.enter_context(_tun(name)) for name in (self.near, self.far))
        thread = threading.Thread(target=self._carry, args=(near, far), daemon=True)
        thread.start()
        stack.callback(thread.join)
        stack.callback(setattr, self, "_leaving", True)

    def _carry(self, near, far):
        under_way = []  # (when it arrives, a number that keeps the order, where, the packet)
        ends = {near: (far, self._delay, self._loss), far: (near, 0.0, 0.0)}
        free_at = dict.fromkeys(ends, 0.0)
        while not self._leaving:
            patience = under_way[0][0] - time.monotonic() if under_way else 0.1
            readable, _, _ = select.select([*ends], [], [], min(0.1, max(0.0, patience)))
            now = time.monotonic()
            for end in readable:
                packet = end.read(65_536)
                other, delay, loss = ends[end]
                begins = max(now, free_at[end])
                if self._cut or begins - now > self.QUEUE or self._random.random() < loss:
                    self.lost += 1
                    continue
                self.carried += 1
                free_at[end] = begins + len(packet) * 8 / self._rate
                heapq.heappush(under_way, (free_at[end] + delay, self.carried, other, packet))
            while under_way and under_way[0][0] <= now:
                _, _, other, packet = heapq.heappop(under_way)
                if not self._cut:
                    other.write(packet)


def _tun(name):
    """Return the user's end of a TUN device called "cable" in a namespace."""
    made = []

    def make():
        _enter(name)
        device = open("/dev/net/tun", "r+b", buffering=0)  # noqa: SIM115  # the caller closes it
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", b"cable", _IFF_TUN | _IFF_NO_PI))
        made.append(device)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return made[0]


def _ip(*args):
    subprocess.run(["ip", *args], check=True, timeout=10)


def _enter(name):
    with open(f"/run/netns/{name}") as file:
        _setns(file.fileno())


def _setns(fd):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
