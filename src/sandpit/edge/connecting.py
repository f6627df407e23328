"""From a route to a connection: an idle one, or a new one, once the sandbox runs."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from sandpit.contract.directory import WakeRefusedError

from .destination import key_for, unreachable
from .refusals import Refusal, sandbox_not_found
from .routing import guard
from .upstream import PortClosedError

if TYPE_CHECKING:
    import asyncio

    from sandpit.contract.directory import Target

    from .routing import Route
    from .server import Edge
    from .upstream import Upstream
    from .wire import Request

log = logging.getLogger(__name__)


class Asker(Protocol):
    """Who needs a connection. Each attempt ends in one of these calls, or is cancelled."""

    def connected(self, upstream: Upstream) -> None: ...
    def refuse(self, refusal: Refusal) -> None: ...


class Connector:
    """Gets one request its upstream connection. It does not hold the asker: no request waits for the garbage collector."""

    def __init__(self, edge: Edge, request: Request, route: Route) -> None:
        self.route = route
        self._edge = edge
        self._request = request
        self._key = key_for(route, edge.api_backend)
        self._attempt: asyncio.Task[None] | None = None
        self._cancelled = False

    @property
    def sandbox_id(self) -> str:
        """Empty for the API."""
        return self._key.sandbox_id

    def start(self, asker: Asker) -> None:
        if self._must_wait:
            self._attempt = self._edge.spawn(self._wake(asker))
        elif (upstream := self._edge.pool.take(self._key)) is not None:
            asker.connected(upstream)
        else:
            self.dial(asker)

    def dial(self, asker: Asker) -> None:
        """Make a new connection."""
        self._attempt = self._edge.spawn(self._dial(asker))

    def wait_for(self, target: Target, asker: Asker) -> None:
        """Begin again: the sandbox is held now, or asleep."""
        if self._attempt is not None:
            self._attempt.cancel()
        self.route = replace(self.route, target=target)
        self._attempt = self._edge.spawn(self._wake(asker))

    def cancel(self) -> None:
        self._cancelled = True
        if self._attempt is not None:
            self._attempt.cancel()

    @property
    def _must_wait(self) -> bool:
        target = self.route.target
        return target is not None and target.state != "running"

    async def _wake(self, asker: Asker) -> None:
        """Wait until the sandbox runs again, which the request itself may bring about."""
        try:
            while self._must_wait:
                await self._wait()
        except Refusal as refusal:
            self._give_up(asker, refusal)
            return
        self._key = key_for(self.route, self._edge.api_backend)
        await self._dial(asker)

    async def _wait(self) -> None:
        """One step towards a sandbox that runs. Raises: Refusal."""
        directory, target = self._edge.directory, self.route.target
        assert target is not None
        # Again: while the request waited, the sandbox may have fallen asleep.
        guard(self._request, self.route)
        title = "Sandbox Not Resumed"
        try:
            found = await directory.wake(target.sandbox_id)
        except WakeRefusedError as error:
            raise Refusal(error.status, str(error), title=title, sandbox_id=target.sandbox_id) from error
        except Exception as error:  # a defect behind this seam must not leave the client without an answer
            log.exception("waiting for sandbox %s failed", target.sandbox_id)
            message = "The sandbox could not be resumed"
            raise Refusal(500, message, title=title, sandbox_id=target.sandbox_id) from error
        if found is None:
            raise sandbox_not_found(target.sandbox_id, directory.why_gone(target.sandbox_id))
        self.route = replace(self.route, target=found)

    async def _dial(self, asker: Asker) -> None:
        try:
            target = self.route.target
            upstream = await self._edge.dialer.dial(self._key, target.relay_secret if target is not None else "")
        except PortClosedError:
            self._give_up(asker, unreachable(self.route, self._edge.directory))
            return
        if self._cancelled or upstream.closed:
            upstream.abort()
            self._give_up(asker, unreachable(self.route, self._edge.directory))
            return
        self._attempt = None
        asker.connected(upstream)

    def _give_up(self, asker: Asker, refusal: Refusal) -> None:
        self._attempt = None  # it is what runs here, and must not be cancelled by who hears of it
        asker.refuse(refusal)
