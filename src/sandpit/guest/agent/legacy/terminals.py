"""The service `terminal` (legacy-protocol 3.6)."""

from __future__ import annotations

import asyncio
import codecs
import os
import signal
from typing import TYPE_CHECKING

from sandpit.guest.agent.accounts import UnknownAccountError
from sandpit.guest.agent.legacy.rpc import Method, RpcError, Subscription, Topics
from sandpit.guest.agent.legacy.shells import command, new_id
from sandpit.guest.agent.process.follower import Follower
from sandpit.guest.agent.process.processes import Config
from sandpit.guest.agent.process.spawn import WorkingDirectoryError, resize, tell_resized

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandpit.guest.agent.control.state import AgentState
    from sandpit.guest.agent.process.processes import Process, ProcessTable

_COLUMNS, _ROWS = 80, 24
_MAX_SIZE = 0xFFFF
_HANG_UP_S = 1.0
"""How long a destroyed terminal's shell may take to end its jobs."""


class TerminalService:
    """Login shells on terminals, in the agent's process table; the tag is the terminal id."""

    events: Mapping[str, int] = {"onData": 1, "onExit": 1}

    def __init__(self, state: AgentState, table: ProcessTable) -> None:
        self._state, self._table = state, table
        self._topics = Topics()
        self._terminals: dict[str, Follower] = {}
        self.methods: Mapping[str, Method] = {
            "start": Method(self.start, (str, int, int, dict, str, str), 3),
            "data": Method(self.data, (str, str), 2),
            "resize": Method(self.resize, (str, int, int), 3),
            "destroy": Method(self.destroy, (str,), 1),
        }

    async def start(self, terminal_id: str, cols: int, rows: int, envs: dict[str, str], line: str, cwd: str) -> str:
        """Start a shell, or a command in one; of an id that is running, nothing is started."""
        terminal_id = terminal_id or new_id()
        self._table.reap()
        if terminal_id in self._terminals:
            return terminal_id
        options = ["-i", "-l", *(["-c", line] if line else [])]
        size = (_bounded(cols) or _COLUMNS, _bounded(rows) or _ROWS)
        try:
            wanted = command(self._state, options, envs, cwd, terminal=size)
            process = self._table.start(Config(wanted.argv[0], options, envs, cwd or None, terminal_id), wanted)
        except WorkingDirectoryError as error:
            reason = os.strerror(error.errno).lower()
            raise RpcError(f"error starting new terminal '{terminal_id}': chdir {error.path}: {reason}") from None
        except (OSError, ValueError, UnknownAccountError) as error:
            raise RpcError(f"error starting new terminal '{terminal_id}': {error}") from None
        listener = _Screen(terminal_id, self._topics)
        follower = self._terminals[terminal_id] = Follower(process, listener)
        follower.task.add_done_callback(lambda _: self._forget(terminal_id, follower))
        return terminal_id

    async def data(self, terminal_id: str, text: str) -> None:
        """Type."""
        process = self._find(terminal_id)
        try:
            if process.input is None:
                raise BrokenPipeError
            await process.input.write(text.encode("utf-8", "replace"))
        except BrokenPipeError:
            raise RpcError(f"error writing to terminal '{terminal_id}': input/output error") from None

    async def resize(self, terminal_id: str, cols: int, rows: int) -> None:
        """Change the size; programs in it hear of it."""
        process = self._find(terminal_id)
        if process.input is None or process.input.fd is None:
            raise RpcError(f"error resizing terminal '{terminal_id}': input/output error")
        resize(process.input.fd, _bounded(cols), _bounded(rows))
        tell_resized(process.input.fd, process.pid)

    async def destroy(self, terminal_id: str) -> None:
        """Hang up. The client is not told of the end: it knows, and Python's would break (fact 10)."""
        follower = self._terminals.pop(terminal_id, None)
        if follower is None:
            return
        follower.task.cancel()
        follower.process.signal(signal.SIGHUP)
        asyncio.get_running_loop().call_later(_HANG_UP_S, follower.process.signal, signal.SIGKILL)

    async def subscribe(self, subscription: Subscription) -> None:
        """Of an id that does not exist yet, usually."""
        self._topics.add(subscription)

    def unsubscribe(self, subscription: Subscription) -> None:
        self._topics.remove(subscription)

    def _find(self, terminal_id: str) -> Process:
        follower = self._terminals.get(terminal_id)
        if follower is None:
            raise RpcError(f"error finding terminal '{terminal_id}'")
        return follower.process

    def _forget(self, terminal_id: str, follower: Follower) -> None:
        if self._terminals.get(terminal_id) is follower:
            del self._terminals[terminal_id]


class _Screen:
    """Tells of output as it comes, in whole characters."""

    def __init__(self, terminal_id: str, topics: Topics) -> None:
        self._terminal_id, self._topics = terminal_id, topics
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    async def output(self, _stream: str, data: bytes) -> None:
        if text := self._decoder.decode(data):
            await self._topics.publish(("onData", self._terminal_id), text)

    async def end(self, _exit_code: int) -> None:
        if rest := self._decoder.decode(b"", final=True):
            await self._topics.publish(("onData", self._terminal_id), rest)
        await self._topics.publish(("onExit", self._terminal_id), {})


def _bounded(number: int) -> int:
    return min(max(number, 0), _MAX_SIZE)
