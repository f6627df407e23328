"""Opening the packet filter for addresses of allowed names, before the sandbox hears them: many in one transaction."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

from sandpit.contract.egress import Rules, is_closed
from sandpit.contract.errors import NodeError
from sandpit.lib.tasks import Tasks

log = logging.getLogger(__name__)

SECONDS = 3600
"""How long an address stays open after its name was last resolved."""
MOST = 4096
"""Addresses that one sandbox may have open by names."""
_FRESH_SECONDS = 600
"""An element younger than this is not made again."""

Apply = Callable[[str], Awaitable[None]]


@dataclass(slots=True)
class _Wish:
    link: str
    rules: Rules
    addresses: list[str]
    granted: asyncio.Future[bool]


class Pins:
    """One transaction at a time; what comes meanwhile waits for the next. `locks` are those under which rules are replaced."""

    def __init__(
        self,
        apply: Apply,
        set_of: Callable[[str], str],
        in_force: Callable[[str], Rules | None],
        locks: Callable[[str], asyncio.Lock],
    ) -> None:
        """`apply` runs nft(8) rules; `set_of` and `in_force` give a link's set (family, table, name) and its rules."""
        self._apply, self._set_of, self._in_force, self._locks = apply, set_of, in_force, locks
        self._wishes: list[_Wish] = []
        self._tasks = Tasks()
        self._worker: asyncio.Task[None] | None = None

    async def open(self, link: str, rules: Rules, addresses: Sequence[str]) -> bool:
        """Open addresses for a sandbox, those that are closed to all left out.

        False when there are too many, when the filter cannot be changed, or when `rules` are not in force any more.
        """
        now = asyncio.get_running_loop().time()
        wanted = [one for one in dict.fromkeys(addresses) if not is_closed(int(IPv4Address(one)))]
        stale = [one for one in wanted if now - rules.pins.get(one, -SECONDS) > _FRESH_SECONDS]
        if not stale:
            return self._in_force(link) is rules
        if not _has_room(rules, stale, now):
            return False
        wish = _Wish(link, rules, stale, asyncio.get_running_loop().create_future())
        self._wishes.append(wish)
        if self._worker is None or self._worker.done():
            self._worker = self._tasks.spawn(self._work(), "open addresses of names")
        return await wish.granted

    async def close(self) -> None:
        """Stop; what waits is not granted."""
        await self._tasks.close()

    async def _work(self) -> None:
        while self._wishes:
            wishes, self._wishes = self._wishes, []
            try:
                await self._grant(wishes)
            finally:
                for wish in wishes:
                    if not wish.granted.done():
                        wish.granted.set_result(False)

    async def _grant(self, wishes: Sequence[_Wish]) -> None:
        """Grant what is still wanted. Rules that are being replaced are locked: by the time they are not, these wishes are void."""
        links = {wish.link for wish in wishes if not self._locks(wish.link).locked()}
        for link in links:
            await self._locks(link).acquire()  # free: returns at once
        try:
            valid = [wish for wish in wishes if wish.link in links and self._in_force(wish.link) is wish.rules]
            if not await self._put(valid):
                for wish in valid:  # one of them may be what is wrong
                    if await self._put([wish]):
                        wish.granted.set_result(True)
                return
            for wish in valid:
                if not wish.granted.done():
                    wish.granted.set_result(True)
        finally:
            for link in links:
                self._locks(link).release()

    async def _put(self, wishes: Sequence[_Wish]) -> bool:
        lines = []
        for wish in wishes:
            element = f"element {self._set_of(wish.link)} {{ {', '.join(wish.addresses)} }}\n"
            # An element that is there keeps its old time: it is made anew, unseen by packets, since this is one transaction.
            lines.append(f"add {element}delete {element}add {element}")
        try:
            await self._apply("".join(lines))
        except (NodeError, OSError) as error:
            log.warning("addresses of names could not be opened: %s", error)
            return False
        now = asyncio.get_running_loop().time()
        for wish in wishes:
            wish.rules.pins.update(dict.fromkeys(wish.addresses, now))
        return True


def _has_room(rules: Rules, more: Sequence[str], now: float) -> bool:
    """Whether the sandbox may have so many more addresses, forgetting those whose time is over."""
    if len(rules.pins) + len(more) > MOST:
        for address, made in list(rules.pins.items()):
            if now - made > SECONDS:
                del rules.pins[address]
    return len(rules.pins) + len(more) <= MOST
