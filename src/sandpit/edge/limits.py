"""How much of everything the edge grants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandpit.lib.peers import Network

PIECE_BYTES = 256 * 1024
"""The most that is read from a connection at a time (uvloop: 256,000 bytes)."""
STALL_GRACE = 10.0
"""A client that has taken nothing of what waits for it for so many seconds counts as stalled."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, times in seconds. Bodies and streams are limited in neither."""

    head_bytes: int = 64 * 1024
    head_time: float = 20.0
    """From the first byte of a head (or the connection's start) to its last."""
    idle_time: float = 620.0
    """Between requests; above the 300 s for which the official clients keep idle connections."""
    linger_time: float = 5.0
    """How long the rest of a refused body is read and dropped, so that the client gets to read the refusal."""
    connections: int = 10_000
    client_connections: int = 2_000
    """Of one client address (of one /64 in IPv6)."""
    proxies: tuple[Network, ...] = ()
    """Addresses of proxies, for which `client_connections` and `client_api_requests` do not hold."""
    sandbox_requests: int = 2_000
    """Requests and tunnels under way to one sandbox: each has a connection to it."""
    api_requests: int = 1_000
    """Requests under way to the API, beside those that come to its own port."""
    client_api_requests: int = 200
    """Of one client address."""
    buffer_bytes: int = 64 * 1024
    """Per connection and direction: the sender is stopped while more waits to be written. One piece more may have been read."""
    unsent_bytes: int = 256 * 1024
    """Per connection and direction: what the kernel may hold beside that and has not sent (tcp(7), TCP_NOTSENT_LOWAT)."""
    stall_time: float = 600.0
    """How long a client may take none of an answer that waits for it."""
    stalled: int = 1_000
    """Stalled connections; the longest are ended beyond that."""
    client_stalled: int = 128
    """Of one client address."""
    sandbox_stalled: int = 128
    """Requests to one sandbox of which its servers have taken nothing for as long; the longest are ended beyond that."""
    dial_time: float = 2.0
    """For a direct connection to a sandbox's port, and again for the relay's answer."""
    pool_time: float = 1.5
    """How long an idle connection to a sandbox is kept: shorter than servers keep it, so that none dies in use."""
    pool_size: int = 64
    """Idle connections kept per port."""
    pool_sandbox: int = 128
    """Idle connections kept per sandbox."""
    pool_total: int = 1_000
