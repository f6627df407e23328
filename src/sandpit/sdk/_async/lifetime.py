"""How long a sandbox lives: as long as its client keeps it alive (2024), or for a time that was named.

A client that created a sandbox lets it live 15 s at a time, one that came later 30 s, and both ask for it every 5 s
(`POST /sandboxes/{id}/refreshes`, which only ever extends). So the creator, when it closes, can tell whether anybody
else holds the sandbox: then its end is further away than its own asking can explain. If nobody does, the creator leaves it
8 s: enough for a client that reconnects at that moment, few enough for programs that open one sandbox after another.
"""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from sandpit.sdk import errors, wire
from sandpit.sdk._async._concurrency import Periodic

if TYPE_CHECKING:
    from sandpit.sdk._async.link import Link

PERIOD_SECONDS = 5.0
CREATOR_SECONDS, VISITOR_SECONDS, LEFT_SECONDS = 15, 30, 8
_SLACK_SECONDS = 3.0
"""The server's clock says whole seconds in `Date`, and an answer takes its time."""
_CALL_SECONDS = 10.0


class Lifetime:
    """Keeps a sandbox alive in the background."""

    def __init__(self, link: Link, *, creator: bool) -> None:
        self._link, self._creator = link, creator
        self._lease = CREATOR_SECONDS if creator else VISITOR_SECONDS
        self._path = f"/sandboxes/{link.identity.sandbox_id}"
        self._given = False
        self._asking = Periodic(self._ask, f"sandpit keep alive {link.identity.sandbox_id}", PERIOD_SECONDS)
        self._stopped = False

    async def _ask(self) -> None:
        """Extend the life; a failure is tried again, until the server says that the sandbox is gone."""
        try:
            await self._refresh(self._lease, _CALL_SECONDS)
        except errors.NotFoundException:
            self._link.logger.warning("sandbox %s has ended", self._link.identity.sandbox_id)
            self._stopped = True
            await self._asking.stop()
        except errors.SandboxException as error:
            self._link.logger.warning("sandbox %s could not be kept alive: %s", self._link.identity.sandbox_id, error)

    async def _refresh(self, seconds: int, timeout: float | None) -> None:
        path, what = f"{self._path}/refreshes", f"keep sandbox {self._link.identity.sandbox_id} alive"
        await self._link.http.api("POST", path, what, timeout, body={"duration": seconds})

    async def keep_alive(self, seconds: int, timeout: float | None) -> None:
        """Let it live at least so long from now on, whatever becomes of this client."""
        if not 0 <= seconds <= 3600:
            raise ValueError(f"the duration must be from 0 to 3600 seconds, not {seconds}")
        await self._refresh(seconds, timeout)
        self._given = True

    async def hand_over(self) -> None:
        """Ask no more: the life was set by other means, and the sandbox is not ended with this client."""
        self._given = True
        self._stopped = True
        await self._asking.stop()

    def again(self) -> Lifetime:
        """The same hold, taken once more after `hand_over`."""
        return Lifetime(self._link, creator=self._creator)

    async def close(self) -> None:
        """Ask no more. Let the sandbox end soon if its creator goes and nobody asked for more."""
        if not self._stopped:
            self._stopped = True
            await self._asking.stop()
        if not self._creator or self._given:
            return
        try:
            if await self._is_mine():
                body = {"timeout": LEFT_SECONDS}
                await self._link.http.api(
                    "POST", f"{self._path}/timeout", "leave the sandbox", _CALL_SECONDS, body=body
                )
        except errors.SandboxException as error:  # it ends by itself
            self._link.logger.debug("sandbox %s was left to its end: %s", self._link.identity.sandbox_id, error)

    async def _is_mine(self) -> bool:
        answer = await self._link.http.api("GET", self._path, "look at the sandbox", _CALL_SECONDS)
        raw = answer.json()
        if raw["state"] != "running" or "date" not in answer.headers:
            return False
        left = wire.moment(raw["endAt"]) - parsedate_to_datetime(answer.headers["date"])
        return left.total_seconds() <= CREATOR_SECONDS + _SLACK_SECONDS
