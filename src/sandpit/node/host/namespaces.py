"""Doing something inside a container's namespaces."""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path

_CLONE_NEWUTS = 0x04000000
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_LAST_GROUP = 0x7FFFFFFF
"""The sysctl's largest value: groups are mapped far below."""
_libc = ctypes.CDLL(None, use_errno=True)


def set_host_name(pid: int, name: str) -> None:
    """Set the host name that process `pid` sees. The calling thread stays in its namespace. Raises: OSError."""
    descriptor = os.open(f"/proc/{pid}/ns/uts", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(descriptor, _CLONE_NEWUTS) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"enter the container's UTS namespace: {os.strerror(number)}")
    finally:
        os.close(descriptor)
    socket.sethostname(name)


def local_ports(namespace: str) -> set[int]:
    """The local ports of all TCP sockets in a network namespace, those of connections that outlive their process included.

    The calling thread stays in that namespace. Raises: OSError.
    """
    _enter_network(namespace)
    ports = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/thread-self/net/{table}").read_text().splitlines()[1:]:
            ports.add(int(line.split(maxsplit=2)[1].rpartition(":")[2], 16))
    return ports


def allow_ping(namespaces: Iterable[str]) -> None:
    """Let every group of these network namespaces make ICMP datagram sockets (ip-sysctl, ping_group_range), as in most distributions.

    Nobody may before. They are no raw sockets: the kernel writes their headers, and they send echo requests only.
    The calling thread stays in the last namespace. Raises: OSError.
    """
    for namespace in namespaces:
        _enter_network(namespace)
        Path("/proc/sys/net/ipv4/ping_group_range").write_text(f"0 {_LAST_GROUP}")


def _enter_network(namespace: str) -> None:
    descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"enter the network namespace: {os.strerror(number)}")
    finally:
        os.close(descriptor)


def set_user_limits(pid: int, limits: Mapping[str, int]) -> None:
    """Set limits `/proc/sys/user/NAME` of the user namespace of process `pid` (namespaces(7)). Raises: OSError.

    A process with threads cannot enter a user namespace, so a child does.
    """
    texts = [(f"/proc/sys/user/{name}".encode(), b"%d" % value) for name, value in limits.items()]
    namespace = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        # Only async-signal-safe work here: the parent has threads.
        status = 1
        try:
            if _libc.setns(namespace, _CLONE_NEWUSER) == 0:
                for path, text in texts:
                    os.write(os.open(path, os.O_WRONLY), text)
                status = 0
        finally:
            os._exit(status)
    os.close(namespace)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise OSError(f"the user namespace of process {pid} takes no limits: {', '.join(limits)}")
