"""Doing something inside a container's namespaces."""

from __future__ import annotations

import ctypes
import os
import socket

_CLONE_NEWUTS = 0x04000000
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
