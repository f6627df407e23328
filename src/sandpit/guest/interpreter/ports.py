"""The service's listening sockets: lent by the agent, which keeps each port while the service is gone (architecture, The guest)."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_SECONDS = 10.0
_LONGEST_ANSWER = 512
_BACKLOG = 2048


def borrow(lender: Path, host: str, port: int) -> socket.socket:
    """The listening socket of a port; where no agent lends any, one of our own. Raises: OSError when the port is in use."""
    answer = _ask(lender, f"open {port}\n")
    if isinstance(answer, socket.socket):
        return answer
    if answer is not None:
        raise OSError(answer)
    # Without SO_REUSEADDR, with which gVisor would let others listen beside us at a more specific address.
    own = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        own.bind((host, port))
        own.listen(_BACKLOG)
    except BaseException:
        own.close()
        raise
    return own


def borrowed_before(lender: Path, port: int) -> socket.socket | None:
    """The listening socket of a port that an earlier life of this service has opened; None if none has."""
    answer = _ask(lender, f"held {port}\n")
    return answer if isinstance(answer, socket.socket) else None


def _ask(lender: Path, request: str) -> socket.socket | str | None:
    """The socket, why there is none, or None where nobody lends to us: not in a sandbox, or not as root."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_SECONDS)
        try:
            connection.connect(str(lender))
        except OSError:
            return None
        connection.sendall(request.encode())
        answer, descriptors, _, _ = socket.recv_fds(connection, _LONGEST_ANSWER, 1)
    if answer == b"+" and descriptors:
        lent = socket.socket(fileno=descriptors[0])
        lent.setblocking(False)
        return lent
    return answer.removeprefix(b"-").decode(errors="replace").strip() or "the agent does not lend the port"
