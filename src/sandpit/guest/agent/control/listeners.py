"""Listening sockets that nothing else in the sandbox can take a share of.

Three facts make this a module. uvloop (libuv's uv_tcp_bind) sets SO_REUSEADDR on whatever it binds, and in gVisor, unlike in Linux, such a
listener lets every user listen on the same port at a more specific address: there, sockets are bound without it. In Linux nobody shares a
port with a listener, and the option must be set, since the network namespace may have remains of an earlier sandbox's connections. And an
IPv4 listener leaves the port free for IPv6: a second socket, bound and never listening, holds it there.
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from functools import cache

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
        listener.listen(BACKLOG)  # before the guard: in Linux no socket that is bound from now on shares the port
        guard = _guard(listener.getsockname()[1]) if host == "0.0.0.0" else None
    except BaseException:
        listener.close()
        raise
    return Held(listener, guard)


def _guard(port: int) -> socket.socket | None:
    try:
        guard = _bound(socket.AF_INET6, "::", port)
    except OSError as error:
        if error.errno in _NO_IPV6:
            return None  # nobody else can use it either
        raise
    guard.setsockopt(
        socket.SOL_SOCKET, socket.SO_REUSEADDR, 0
    )  # it does not listen, so with this nobody else may have it
    return guard


@cache
def listeners_share() -> bool:
    """Whether this kernel lets a socket be bound to the port of a listener if both have SO_REUSEADDR: gVisor does, Linux does not."""
    with socket.socket() as listener, socket.socket() as other:
        for one in (listener, other):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("0.0.0.0", 0))
        listener.listen(1)
        try:
            other.bind(("127.0.0.1", listener.getsockname()[1]))
        except OSError:
            return False
        return True


def _bound(family: int, host: str, port: int) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if not listeners_share():
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except BaseException:
        bound.close()
        raise
    return bound
