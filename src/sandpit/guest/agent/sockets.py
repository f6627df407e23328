"""The TCP sockets of this sandbox, as its kernel lists them (proc_pid_net(5))."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

LISTEN = 10
"""TCP_LISTEN (linux/tcp_states.h)."""
_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))


class TcpSocket(NamedTuple):
    """One line of the table."""

    local: str
    """Address and port in hexadecimal, `0100007F:1F90`: words in this machine's byte order."""
    remote: str
    state: int
    uid: str

    @property
    def port(self) -> int:
        """The local one."""
        return int(self.local.rpartition(":")[2], 16)


def tcp_sockets() -> Iterator[TcpSocket]:
    """All there are; none where the kernel does not tell."""
    for table in _TABLES:
        try:
            lines = table.read_text(encoding="ascii", errors="replace").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            columns = line.split(maxsplit=8)
            if len(columns) >= 8:
                yield TcpSocket(columns[1], columns[2], int(columns[3], 16), columns[7])
