"""What the services that change sandboxes have in common: parts, clocks, and whose sandbox it is."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from sandpit.contract.directory import Target
from sandpit.contract.errors import AgentUnresponsive, NodeError, UnknownSandbox
from sandpit.control.errors import BusyError, ConflictError, NotFoundError
from sandpit.control.lifecycle import records
from sandpit.control.lifecycle.expiry import ExpirySchedule
from sandpit.control.lifecycle.live import Live, LiveSandboxes
from sandpit.store.types import utc_now

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from sandpit.contract.node import Node, RunningSandbox
    from sandpit.control.accounts.teams import Identity
    from sandpit.control.lifecycle.directory import LiveDirectory
    from sandpit.control.logs.guests import GuestLogs
    from sandpit.control.operations import Operations
    from sandpit.store.database import Database
    from sandpit.store.models import Sandbox

log = logging.getLogger(__name__)


class TimeOut(Protocol):
    """`only_when_due`: not when its deadline has been moved meanwhile. It runs to its end, and raises what went wrong."""

    def __call__(self, live: Live, *, only_when_due: bool) -> Coroutine[Any, Any, object]: ...


@dataclass(slots=True)
class Core:
    """One per control plane."""

    database: Database
    node: Node
    directory: LiveDirectory
    operations: Operations
    logs: GuestLogs
    live: LiveSandboxes = field(default_factory=LiveSandboxes)
    time_out: TimeOut = field(init=False)
    """Ends or pauses a sandbox whose time is over; set by the service that can do both."""
    expiry: ExpirySchedule = field(init=False)
    unwanted: set[str] = field(default_factory=set)
    """Sandboxes that may run although nobody has them: killing them has failed, and is tried again (`control.lifecycle.sweeping`)."""
    _timing_out: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.expiry = ExpirySchedule(self._expire)

    def is_over(self, live: Live) -> bool:
        """Whether a sandbox's time is over, by either clock: that of its life, which no step of the wall clock changes, or that of the
        end its clients were shown."""
        return live.deadline <= self.expiry.now() or (live.end_at is not None and live.end_at <= utc_now())

    def is_due(self, live: Live) -> bool:
        """The same for whoever acts on it. When it is not, a timer is set: every decision that nothing is due yet goes through here."""
        if self.is_over(live):
            return True
        self.expiry.set(live.sandbox_id, live.deadline)
        return False

    def _expire(self, sandbox_id: str) -> None:
        live = self.live.get(sandbox_id)
        if live is None:
            self.expiry.cancel(sandbox_id)
        elif sandbox_id not in self._timing_out:
            self._timing_out.add(sandbox_id)
            self.operations.spawn(self._time_out(live))

    async def _time_out(self, live: Live) -> None:
        try:
            await self.time_out(live, only_when_due=True)
        finally:
            self._timing_out.discard(live.sandbox_id)

    async def discard(self, sandbox_id: str) -> None:
        """Kill a sandbox on the node that belongs to nobody; what fails is tried again."""
        self.unwanted.add(sandbox_id)
        try:
            await self.node.kill(sandbox_id)
        except UnknownSandbox:
            pass
        except NodeError as error:
            log.error("sandbox %s runs although nobody has it: %s", sandbox_id, error)
            return
        self.unwanted.discard(sandbox_id)

    def own(self, identity: Identity, sandbox_id: str) -> Live:
        """A team's sandbox, running or paused. Raises: NotFoundError."""
        live = self.live.get(sandbox_id)
        if live is None or live.team_id != identity.team_id or live.state in ("starting", "ended"):
            raise not_found(sandbox_id)
        return live

    def check_running(self, live: Live) -> None:
        """Raises: NotFoundError, ConflictError (paused, or being killed)."""
        if live.state == "ended":
            raise not_found(live.sandbox_id)
        if live.state == "ending":
            raise ConflictError(f"sandbox '{live.sandbox_id}' is being killed")
        if live.state == "paused":
            raise ConflictError(f"sandbox '{live.sandbox_id}' is paused: resume it first")

    async def announce_snapshot(self, live: Live) -> None:
        """The first step of a pause or copy, before streams are cut. Raises: NotFoundError, BusyError (its agent does not answer)."""
        try:
            await self.node.announce_snapshot(live.sandbox_id)
        except UnknownSandbox as error:
            raise not_found(live.sandbox_id) from error
        except AgentUnresponsive as error:
            raise BusyError(str(error)) from error  # clients know this status as "not paused, try again"

    def announce(self, live: Live, sandbox: Sandbox, running: RunningSandbox, *, is_new: bool = False) -> None:
        """It runs: the edge finds it, and its time counts. Raises: KilledError."""
        live.become("running")
        live.end_at = sandbox.end_at
        self.directory.add(target(sandbox, running.address, running.relay_secret))
        self.expiry.set(live.sandbox_id, live.deadline)
        self.operations.spawn(self.logs.follow(live.sandbox_id, is_new=is_new))

    def adopt(self, sandbox: Sandbox, running: RunningSandbox, max_session_seconds: int) -> None:
        """Take over a sandbox that outlived the last server process; an expired one ends at once."""
        live = Live(sandbox.id, sandbox.team_id, lifecycle=sandbox.lifecycle, timeout_s=sandbox.timeout_s)
        now, wall = self.expiry.now(), utc_now()
        live.deadline = now + (sandbox.end_at - wall).total_seconds()
        live.last_deadline = now + max_session_seconds - (wall - sandbox.started_at).total_seconds()
        self.live.add(live)
        self.announce(live, sandbox, running)

    def adopt_paused(self, sandbox: Sandbox) -> None:
        """Know a paused sandbox again."""
        live = Live(sandbox.id, sandbox.team_id, "paused", lifecycle=sandbox.lifecycle, timeout_s=sandbox.timeout_s)
        self.live.add(live)
        self.show_asleep(sandbox)

    def show_paused(self, sandbox_id: str, *, wakes: bool) -> None:
        """The same for one that is held, and whose record cannot be read now."""
        if wakes:
            self.directory.sleep(sandbox_id)
        else:
            self.directory.remove(sandbox_id)

    def show_asleep(self, sandbox: Sandbox) -> None:
        """Tell the edge about a paused sandbox: requests resume it only if that was asked for, and with its processes."""
        if sandbox.lifecycle.get("autoResume") and sandbox.pause_mode == records.FULL:
            self.directory.add(target(sandbox, "", "", asleep=True))  # requests that waited for the pause go on waiting
        else:
            self.directory.remove(sandbox.id)


def target(sandbox: Sandbox, address: str, relay_secret: str, *, asleep: bool = False) -> Target:
    """A sandbox as the edge sees it."""
    network = sandbox.network or {}
    return Target(
        sandbox_id=sandbox.id,
        address=address,
        access_token=sandbox.access_token,
        relay_secret=relay_secret,
        traffic_token=sandbox.traffic_token,
        mask_request_host=network.get("maskRequestHost"),
        https_ports=frozenset(network.get("httpsPorts") or ()),
        state="asleep" if asleep else "running",
    )


def not_found(sandbox_id: str) -> NotFoundError:
    """The same words for one that never was, has ended, or belongs to others."""
    return NotFoundError(f"sandbox '{sandbox_id}' not found")
