"""Who may have everything run as root, by the image's own sudoers. In doubt nobody may.

Only `(ALL) NOPASSWD: ALL` counts: a real sudo that root starts asks for no password and looks at no narrower rule.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sandpit.guest.agent.accounts import Account, UnknownAccountError, find_account, user_name
from sandpit.guest.agent.process.pipes import OutputPipe
from sandpit.guest.agent.process.spawn import Command, spawn
from sandpit.guest.agent.sudo.request import RefusedError

if TYPE_CHECKING:
    from sandpit.guest.agent.process.processes import ProcessTable

_FILES = (Path("/etc/sudoers"), Path("/etc/sudoers.d"), Path("/etc/group"), Path("/etc/passwd"))
_KEPT_SECONDS = 1.0
"""Sudoers may include any file, and speak of host names and times: an answer is not kept for longer, whatever changed."""
_LOOK_UP_SECONDS = 5.0
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\$?")
_RULE = re.compile(r"^\s+\(.*$", re.MULTILINE)
_EVERYTHING = re.compile(r"\s+\(ALL(?: : ALL)?\) (?:SETENV: )?NOPASSWD: (?:SETENV: )?ALL\s*")


@dataclass(frozen=True, slots=True)
class _Answer:
    stamp: object
    until: float
    allowed: asyncio.Task[bool]


class Policy:
    """Asks the real sudo, which knows sudoers' language, and keeps its answer for a moment."""

    def __init__(self, table: ProcessTable, sudo: Path) -> None:
        self._table = table
        self._sudo = sudo
        self._answers: dict[str, _Answer] = {}

    async def check(self, uid: int) -> Account:
        """The account of a user who may. Raises: RefusedError."""
        account = _account(uid)
        if uid != 0 and not await self._allows(account.name):
            raise RefusedError(
                f"{account.name} may not run everything as root without a password: this sandbox's kernel leaves sudo no finer rules"
            )
        return account

    async def _allows(self, name: str) -> bool:
        """Requests that come while one is looked up wait for the same answer."""
        loop, stamp = asyncio.get_running_loop(), [_stamp(path) for path in _FILES]
        answer = self._answers.get(name)
        if answer is None or answer.stamp != stamp or loop.time() >= answer.until:
            answer = _Answer(stamp, loop.time() + _KEPT_SECONDS, loop.create_task(self._look_up(name)))
            self._answers[name] = answer
        return await asyncio.shield(answer.allowed)

    async def _look_up(self, name: str) -> bool:
        rules = _RULE.findall(await self._rules(name))
        # The last rule that matches is the one that holds (sudoers(5)); exceptions are beyond us.
        return bool(rules) and bool(_EVERYTHING.fullmatch(rules[-1])) and not any("!" in rule for rule in rules)

    async def _rules(self, name: str) -> str:
        """What the real sudo says about a user, in English; empty if it says nothing, or not in time."""
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
        spawned = spawn(
            Command([str(self._sudo), "-l", "-U", name], environment, "/", find_account("root"), stdin=False)
        )
        exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._table.adopt(spawned.pid, exited)
        chunks: list[bytes] = []
        drained = asyncio.Event()
        assert spawned.stdout is not None
        assert spawned.stderr is not None
        output = OutputPipe(spawned.stdout, 32 << 10, chunks.append, drained.set)
        errors = OutputPipe(spawned.stderr, 32 << 10, lambda _: None, lambda: None)
        try:
            async with asyncio.timeout(_LOOK_UP_SECONDS):
                status = await asyncio.shield(exited)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(spawned.pid, signal.SIGKILL)
            status = -1
        finally:
            output.finish()
            errors.finish()
        await drained.wait()
        return b"".join(chunks).decode(errors="replace") if status == 0 else ""


def _account(uid: int) -> Account:
    """The account that a user id and its name mean both. Raises: RefusedError.

    An id without an account has its digits for a name, which may be the name of somebody else.
    """
    with contextlib.suppress(UnknownAccountError):
        account = find_account(user_name(uid))
        if account.uid == uid and _NAME.fullmatch(account.name):
            return account
    raise RefusedError(f"you do not exist in the passwd database (user id {uid})")


def _stamp(path: Path) -> object:
    """Changes when a file, or what is in a directory, changes."""
    try:
        found = path.stat()
        inside = sorted(path.iterdir()) if stat.S_ISDIR(found.st_mode) else []
    except OSError:
        return None
    return (found.st_ino, found.st_mtime_ns, found.st_size, [_stamp(entry) for entry in inside])
