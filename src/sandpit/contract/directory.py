"""What the edge must know about sandboxes: the interface between `edge/` and `control/`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


@dataclass(frozen=True, slots=True)
class Target:
    """A sandbox as the edge sees it."""

    sandbox_id: str
    address: str
    """IPv4 address of the sandbox, reachable from this machine."""
    access_token: str | None
    """The agent's token: recognises signed file links, and goes to no other server in the sandbox."""
    relay_secret: str = field(default="", repr=False)
    """What the agent's relay knows the edge by; empty for a sandbox whose relay wants none."""
    traffic_token: str | None = None
    """When set, user ports demand it in `e2b-traffic-access-token`."""
    mask_request_host: str | None = None
    """Replaces the Host header towards user ports; `${PORT}` stands for the port."""
    https_ports: frozenset[int] = frozenset()
    state: Literal["running", "held", "asleep"] = "running"
    """`held`: it is being paused or copied, and requests wait until that is over. `asleep`: paused, and a request resumes it."""


class WakeRefusedError(Exception):
    """A sandbox could not be resumed; `status` is for the one who asked."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Directory(Protocol):
    """Finds running sandboxes. All calls but `wake` answer from memory."""

    def find(self, sandbox_id: str) -> Target | None:
        """The sandbox with this id, if it runs or a request may wait for it; else None (unknown, killed, paused)."""

    def why_gone(self, sandbox_id: str) -> str:
        """Why a sandbox ended on its own, for instance `out of memory (limit 512 MiB)`; empty if it did not, or long ago."""

    async def wake(self, sandbox_id: str) -> Target | None:
        """Wait for a `held` sandbox, or resume one that is `asleep`. Raises: WakeRefusedError.

        The sandbox as it is then; None when it is gone. One that was held may be asleep now: whether the request may resume
        it is for the caller to check before it asks again.
        """

    def touch(self, sandbox_id: str) -> None:
        """Something flows to or from a sandbox: called when a request begins, then once a second at most. It must not wait."""

    def targets(self) -> Iterable[Target]:
        """All running sandboxes (for links that carry no sandbox id but a signature)."""

    def on_gone(self, callback: Callable[[str], None]) -> None:
        """Have `callback` told, with the id, the moment a sandbox stops running or is held: its streams must be cut."""
