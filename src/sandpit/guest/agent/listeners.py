"""Listening sockets that nothing else in the sandbox can take a share of.

Two facts make this a module. uvloop (libuv's uv_tcp_bind) sets SO_REUSEADDR on whatever it binds, and in gVisor, unlike in Linux, such a
listener lets every user listen on the same port at a more specific address. And an IPv4 listener leaves the port free for IPv6. So sockets
are bound here, without options, and a second one, bound and never listening, holds the port for IPv6.
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass

BACKLOG = 2048
_NO_IPV6 = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})


@dataclass(frozen=True, slots=True)
class Held:
    """A port of this sandbox that belongs to one process, for as long as this object is kept."""

    listener: socket.socket
    guard: socket.socket | None
    """Holds the port for IPv6, where there is any."""

    def close(self) -> None:
        """Leave the port to whoever wants it."""
        for held in (self.listener, self.guard):
            if held is not None:
                held.close()


def hold(host: str, port: int) -> Held:
    """Listen, with all of the port's addresses taken if `host` is 0.0.0.0. Raises: OSError when the port is in use."""
    listener = _bound(socket.AF_INET, host, port)
    try:
        guard = _guard(listener.getsockname()[1]) if host == "0.0.0.0" else None
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return Held(listener, guard)


def _guard(port: int) -> socket.socket | None:
    try:
        return _bound(socket.AF_INET6, "::", port)
    except OSError as error:
        if error.errno in _NO_IPV6:
            return None  # nobody else can use it either
        raise


def _bound(family: int, host: str, port: int) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind((host, port))
    except BaseException:
        bound.close()
        raise
    return bound
