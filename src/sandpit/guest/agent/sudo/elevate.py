"""`sudo` where the kernel ignores set-user-ID bits, as gVisor releases up to 2024 do.

The image's /usr/bin/sudo is put aside and replaced by a shim (sudo_shim, sandpit.guest.sudo) that asks here, over a unix socket, for
the real one to be started: as root, with the caller's arguments, environment, working directory and descriptors. Who asks is what the
kernel adds to the message (SCM_CREDENTIALS; gVisor's SO_PEERCRED tells the reader's own identity); whether he may is what the image's
own sudoers say (sudo_policy), and is settled before anything else of his is read. Answers are lines: `go on`, then `exit STATUS`,
`signal NUMBER` or `error TEXT`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from sandpit.guest.agent.process.spawn import DEFAULT_SIGNALS
from sandpit.guest.agent.sudo.command import named_caller, safe_environment
from sandpit.guest.agent.sudo.policy import Policy
from sandpit.guest.agent.sudo.request import Head, RefusedError, Request, receive_head, receive_payload
from sandpit.guest.agent.sudo.shim import REAL
from sandpit.guest.sudo.__main__ import SOCKET

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandpit.guest.agent.accounts import Account
    from sandpit.guest.agent.process.processes import ProcessTable

_LOG = logging.getLogger(__name__)

_SECONDS = 10.0
"""For each part of a request to come."""
_CONNECTIONS = 512
_BACKLOG = 128
_SIGNALS = frozenset(
    {signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM,
     signal.SIGCONT, signal.SIGWINCH}
)  # fmt: skip


class Elevator:
    """Serves the shims. Runs on the agent's event loop."""

    def __init__(self, table: ProcessTable) -> None:
        self._table = table
        self._policy = Policy(table, REAL)
        self._tasks: set[asyncio.Task[None]] = set()
        self._strangers: dict[asyncio.Task[None] | None, None] = {}
        """Tasks whose caller is not known to be allowed, the oldest first."""

    def listen(self, path: str = SOCKET) -> None:
        """Accept from now on. Raises: OSError."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._listener.bind(path)
        Path(path).chmod(0o666)  # who may do what is decided by who asks
        self._listener.listen(_BACKLOG)
        asyncio.get_running_loop().add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # no more wait, or no descriptors are left
            for _ in range(_BACKLOG):
                self._take(self._listener.accept()[0])

    def _take(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        if len(self._tasks) >= _CONNECTIONS:
            # Connections that ask for nothing must not keep others from asking.
            oldest = next(iter(self._strangers), None)
            if oldest is None:
                connection.close()
                return
            del self._strangers[oldest]
            oldest.cancel()
        task = asyncio.get_running_loop().create_task(self._serve(connection))
        self._tasks.add(task)
        self._strangers[task] = None
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._strangers.pop(task, None)

    async def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                answer = await self._answer(connection)
            except RefusedError as refused:
                answer = f"error {refused}"
            except (OSError, ValueError, TimeoutError) as problem:
                answer = f"error the request cannot be served: {problem}"
            except Exception:  # noqa: BLE001 - whatever a caller thinks of, it fails him alone
                _LOG.exception("a request for sudo")
                answer = "error the request cannot be served"
            with contextlib.suppress(OSError, TimeoutError):
                await _send(connection, answer)

    async def _answer(self, connection: socket.socket) -> str:
        async with asyncio.timeout(_SECONDS):
            head = await receive_head(connection)
        try:
            pid = await self._start(connection, head)
        finally:
            head.close()
        exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._table.adopt(pid, exited)
        return await _accompany(connection, pid, exited)

    async def _start(self, connection: socket.socket, head: Head) -> int:
        """Start the real sudo for a caller who may; returns its pid. Raises: RefusedError, OSError, ValueError, TimeoutError."""
        caller = await self._policy.check(head.uid)
        self._strangers.pop(asyncio.current_task(), None)
        await _send(connection, "go on")
        async with asyncio.timeout(_SECONDS):
            request = await receive_payload(connection, head.size)
        return _spawn(request, head.descriptors, caller)


async def _send(connection: socket.socket, line: str) -> None:
    text = line.replace("\n", " ").encode(errors="replace") + b"\n"
    async with asyncio.timeout(_SECONDS):
        await asyncio.get_running_loop().sock_sendall(connection, text)


def _spawn(request: Request, descriptors: Sequence[int], caller: Account) -> int:
    directory, *standard = descriptors
    env = safe_environment(request.env)
    argv = request.argv if caller.uid == 0 else named_caller(request.argv, caller)
    actions: list[tuple[object, ...]] = []
    if request.terminal:
        # Opened first, by a session's leader: it becomes the controlling terminal.
        path = next((os.ttyname(fd) for fd in standard if os.isatty(fd)), None)
        if path is None:
            raise RefusedError("the request names a terminal and has none")
        actions.append((os.POSIX_SPAWN_OPEN, 0, path, os.O_RDWR, 0))
    actions += [(os.POSIX_SPAWN_DUP2, fd, target) for target, fd in enumerate(standard)]
    mask = os.umask(request.umask & 0o777)
    try:
        os.fchdir(directory)
        return os.posix_spawn(
            str(REAL),
            argv,
            env,
            file_actions=actions,
            setsid=True,
            setsigmask=(),
            setsigdef=DEFAULT_SIGNALS,
        )
    finally:
        os.chdir("/")
        os.umask(mask)


async def _accompany(connection: socket.socket, pid: int, exited: asyncio.Future[int]) -> str:
    """Pass signals on until the process ends; a caller that is gone is a terminal that hung up."""
    signals = asyncio.ensure_future(_forward_signals(connection, pid, exited))
    try:
        status = os.waitstatus_to_exitcode(await exited)
    finally:
        signals.cancel()
        await asyncio.gather(signals, return_exceptions=True)
    return f"exit {status}" if status >= 0 else f"signal {-status}"


async def _forward_signals(connection: socket.socket, pid: int, exited: asyncio.Future[int]) -> None:
    loop = asyncio.get_running_loop()
    while True:
        try:
            numbers = await loop.sock_recv(connection, 64)
        except OSError:
            numbers = b""
        for number in numbers or bytes([signal.SIGHUP]):
            if number in _SIGNALS and not exited.done():  # its number may be another's when it was reaped
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, number)
        if not numbers:
            return
