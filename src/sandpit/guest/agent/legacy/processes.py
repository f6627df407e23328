"""The service `process` (legacy-protocol 3.4)."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Any

from sandpit.guest.agent.accounts import UnknownAccountError
from sandpit.guest.agent.legacy.rpc import Method, RpcError, Subscription, Topics
from sandpit.guest.agent.legacy.shells import Clock, command, new_id
from sandpit.guest.agent.process.follower import Follower
from sandpit.guest.agent.process.processes import Config
from sandpit.guest.agent.process.spawn import WorkingDirectoryError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandpit.guest.agent.control.state import AgentState
    from sandpit.guest.agent.process.processes import Process, ProcessTable

MAX_LINE_BYTES = 32 << 20
KILL_WAIT_S = 2.0


class ProcessService:
    """Starts processes of the agent's table, or follows those with a tag that others started; the tag is the process id."""

    events: Mapping[str, int] = {"onStdout": 1, "onStderr": 1, "onExit": 1}

    def __init__(self, state: AgentState, table: ProcessTable) -> None:
        self._state, self._table = state, table
        self._topics = Topics()
        self._followers: dict[str, Follower] = {}
        self.methods: Mapping[str, Method] = {
            "start": Method(self.start, (str, str, dict, str), 4),
            "stdin": Method(self.stdin, (str, str), 2),
            "kill": Method(self.kill, (str,), 1),
        }

    async def start(self, process_id: str, line: str, envs: dict[str, str], cwd: str) -> str:
        """Start a shell command; of an id that is running, nothing is started."""
        process_id = process_id or new_id()
        self._table.reap()  # what died before is gone for this one
        if self._running(process_id) is not None:
            return process_id
        try:
            wanted = command(self._state, ["-l", "-c", line], envs, cwd)
            config = Config(wanted.argv[0], wanted.argv[1:], envs, cwd or None, process_id)
            process = self._table.start(config, wanted, waits_for_output=True)
        except WorkingDirectoryError as error:
            # Clients recognise this text, and take it for a missing working directory.
            reason = os.strerror(error.errno).lower()
            raise RpcError(f"error starting process '{process_id}': fork/exec {wanted.argv[0]}: {reason}") from None
        except OSError as error:
            raise RpcError(f"error starting process '{process_id}': {(error.strerror or str(error)).lower()}") from None
        except (ValueError, UnknownAccountError) as error:  # a NUL byte, or text that is no Unicode
            raise RpcError(f"error starting process '{process_id}': {error}") from None
        self._follow(process_id, process)
        return process_id

    async def stdin(self, process_id: str, data: str) -> None:
        """Write to standard input."""
        process = self._running(process_id)
        if process is None:
            raise RpcError(f"error finding process '{process_id}'")
        try:
            if process.input is None:
                raise BrokenPipeError
            await process.input.write(data.encode("utf-8", "replace"))
        except BrokenPipeError:
            raise RpcError(f"error writing stdin to process '{process_id}': write |1: broken pipe") from None

    async def kill(self, process_id: str) -> None:
        """End it. Clients hear of its end before the answer, or JavaScript's hang (fact 9)."""
        process = self._running(process_id)
        if process is None:
            return
        process.signal(signal.SIGKILL)
        follower = self._followers.get(process_id)
        if follower is not None:
            await asyncio.wait({follower.task}, timeout=KILL_WAIT_S)

    async def subscribe(self, subscription: Subscription) -> None:
        """Of an id that does not exist yet, usually."""
        self._topics.add(subscription)
        (process_id,) = subscription.arguments
        if (process := self._running(process_id)) is not None:
            self._follow(process_id, process)

    def unsubscribe(self, subscription: Subscription) -> None:
        self._topics.remove(subscription)

    def _running(self, process_id: str) -> Process | None:
        process = self._table.find(tag=process_id) if process_id else None
        return process if process is not None and process.running and not process.has_terminal else None

    def _follow(self, process_id: str, process: Process) -> None:
        follower = self._followers.get(process_id)
        if follower is not None and follower.process is process:
            return
        follower = Follower(process, _Lines(process_id, self._topics))
        self._followers[process_id] = follower
        follower.task.add_done_callback(lambda _: self._forget(process_id, follower))

    def _forget(self, process_id: str, follower: Follower) -> None:
        if self._followers.get(process_id) is follower:
            del self._followers[process_id]


class _Lines:
    """Tells of output line by line."""

    def __init__(self, process_id: str, topics: Topics) -> None:
        self._process_id, self._topics = process_id, topics
        self._clock = Clock()
        self._rests = {"stdout": bytearray(), "stderr": bytearray()}

    async def output(self, stream: str, data: bytes) -> None:
        rest = self._rests[stream]
        searched = len(rest)
        rest += data
        start = 0
        while (end := rest.find(b"\n", max(start, searched))) >= 0:
            await self._tell(stream, rest[start:end])
            start = end + 1
        del rest[:start]
        if len(rest) > MAX_LINE_BYTES:
            await self._tell(stream, rest)
            rest.clear()

    async def end(self, exit_code: int) -> None:
        for stream, rest in self._rests.items():
            if rest:
                await self._tell(stream, rest)
        await self._topics.publish(("onExit", self._process_id), exit_code)

    async def _tell(self, stream: str, line: bytearray) -> None:
        kind = stream.capitalize()
        text = bytes(line.removesuffix(b"\r")).decode("utf-8", "replace")
        event: dict[str, Any] = {"type": kind, "line": text, "timestamp": self._clock.now()}
        await self._topics.publish((f"on{kind}", self._process_id), event)
