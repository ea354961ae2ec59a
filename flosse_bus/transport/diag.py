"""What the kernel tells of a TCP connection by its two ends: sock_diag(7), Linux.

For servers that show no socket. Any user may ask, of connections in the same network namespace.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
from collections.abc import Callable
from functools import partial
from ipaddress import ip_address
from typing import Any, cast

#: A host and a port, as in an ASGI scope.
End = tuple[str, int]

_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, _INET_DIAG_INFO = 4, 20, 1, 2
_HEADER = struct.Struct("=IHHII")
#: ``struct inet_diag_req_v2``, which ends with two ports, two addresses, an interface and a cookie.
_REQUEST = struct.Struct("=BBBxI2s2s16s16sIII")
#: Where the attributes begin in the answer, after ``struct inet_diag_msg``.
_ATTRIBUTES = _HEADER.size + 72
#: Where there is no connection, what is found is whoever listens.
_STATE, _LISTEN = _HEADER.size + 1, 10
_ATTRIBUTE = struct.Struct("=HH")


def teller(here: Any, there: Any) -> Callable[[], bytes | None] | None:
    """Return :func:`tcp_info` of these ends, if they are two and there is such a connection."""
    try:
        (own, own_port), (other, port) = here, there
        if ip_address(own).is_unspecified:  # which of this host's addresses is not said
            own = _towards(other)
        tell = partial(tcp_info, (own, int(own_port)), (other, int(port)))  # granian's are strings
    except (TypeError, ValueError, OSError):
        return None
    return None if tell() is None else tell


def _towards(host: str) -> str:
    """Return this host's address as another one has it, most likely. Nothing is sent."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))
        return cast(str, probe.getsockname()[0])


def tcp_info(here: End, there: End) -> bytes | None:
    """Return the ``struct tcp_info`` of the connection, ``None`` if it is not found."""
    if sys.platform != "linux":
        return None
    with contextlib.suppress(OSError, OverflowError):
        family = socket.AF_INET6 if ":" in here[0] else socket.AF_INET
        request = _REQUEST.pack(
            family, socket.IPPROTO_TCP, 1 << (_INET_DIAG_INFO - 1), 0xFFFFFFFF,
            here[1].to_bytes(2, "big"), there[1].to_bytes(2, "big"),
            socket.inet_pton(family, here[0]), socket.inet_pton(family, there[0]),
            0, 0xFFFFFFFF, 0xFFFFFFFF,
        )  # fmt: skip
        size = _HEADER.size + len(request)
        header = _HEADER.pack(size, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 0, 0)
        with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_SOCK_DIAG) as netlink:
            netlink.sendto(header + request, (0, 0))
            return _find(netlink.recv(4096, socket.MSG_DONTWAIT))  # the kernel answers at once
    return None


def _find(answer: bytes) -> bytes | None:
    if _HEADER.unpack_from(answer)[1] != _SOCK_DIAG_BY_FAMILY or answer[_STATE] == _LISTEN:
        return None
    at = _ATTRIBUTES
    while at + _ATTRIBUTE.size <= len(answer):
        size, kind = _ATTRIBUTE.unpack_from(answer, at)
        if kind == _INET_DIAG_INFO:
            return answer[at + _ATTRIBUTE.size : at + size]
        at += max(_ATTRIBUTE.size, (size + 3) & ~3)
    return None
