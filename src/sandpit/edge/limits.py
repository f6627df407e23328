"""How much of everything the edge grants."""

from __future__ import annotations

from dataclasses import dataclass


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
    sandbox_requests: int = 2_000
    """Requests and tunnels under way to one sandbox."""
    buffer_bytes: int = 512 * 1024
    """Per connection and direction: the sender is stopped while more waits to be written."""
    dial_time: float = 2.0
    """For a direct connection to a sandbox's port, and again for the relay's answer."""
    pool_time: float = 1.5
    """How long an idle connection to a sandbox is kept: shorter than servers keep it, so that none dies in use."""
    pool_size: int = 64
    """Idle connections kept per port."""
