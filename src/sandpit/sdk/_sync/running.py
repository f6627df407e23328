# Generated from _async/running.py by scripts/make_sync: change that one.
"""A process of the sandbox as its streams show it; `Process`, `CommandHandle` and `Terminal` are views of one."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from sandpit.sdk import errors, wire
from sandpit.sdk._sync._concurrency import Worker, call

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandpit.sdk._sync.http import Stream
    from sandpit.sdk._sync.link import Link
    from sandpit.sdk.wire import Json


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended. A signal is exit code -1."""

    exit_code: int
    error: str


class Sink(Protocol):
    """What takes a process's output and end."""

    def data(self, kind: str, data: bytes) -> None:
        """Bytes of `stdout`, `stderr` or `pty`."""

    def ended(self, end: Ended) -> None: ...

    def failed(self, error: errors.SandboxException) -> None:
        """Nobody will hear how it ends."""


class Running:
    """A process, and the stream of its events, which is read in the background."""

    def __init__(self, link: Link, raises: type[errors.SandboxException], first: Json, stream: Stream) -> None:
        self._link, self._raises, self._stream = link, raises, stream
        self.pid: int = first["event"]["start"]["pid"]
        self._worker: Worker | None = None
        self._stopped = False

    @classmethod
    def start(
        cls, link: Link, raises: type[errors.SandboxException], message: Json, timeout: float | None,
        user: str | None = None, life: float | None = None,
    ) -> Running:  # fmt: skip
        """Start a process (current-protocol 5.3). `timeout` limits the start. Raises: `raises`, SandboxException."""
        return cls(link, raises, *link.open_rpc("process.Process/Start", message, raises, timeout, user, life))

    @classmethod
    def connect(
        cls,
        link: Link,
        raises: type[errors.SandboxException],
        selector: Json,
        timeout: float | None,
        *,
        past: bool = False,
    ) -> Running:
        """Follow a process that runs already. Earlier output is gone, but for the start command's, if `past` is asked for.

        Raises: NotFoundException, `raises`.
        """
        message = {"process": selector, **({"past": True} if past else {})}
        return cls(link, raises, *link.open_rpc("process.Process/Connect", message, raises, timeout))

    def follow(self, sink: Sink) -> None:
        """Read on in the background."""
        self._link.background.add(self)
        self._worker = Worker(lambda: self._run(sink), f"sandpit process {self.pid}", self._stream.interrupt)

    def _run(self, sink: Sink) -> None:
        try:
            end = self._read(sink)
        except errors.SandboxException as error:
            sink.failed(self._explained(error))
        else:
            sink.ended(end)
        finally:
            self._link.background.discard(self)
            self._stream.close()
            sink.failed(self._left())  # counts only if nothing else was said: the work was cancelled

    def _read(self, sink: Sink) -> Ended:
        end: Ended | None = None
        while not self._stopped and (message := self._stream.receive()) is not None:
            event = message.get("event", {})
            for kind, data in event.get("data", {}).items():
                sink.data(kind, base64.b64decode(data))
            if "end" in event:
                end = Ended(event["end"].get("exitCode", 0), event["end"].get("error", ""))
        self._link.check_end(self._stream, self._raises)
        if end is None:
            raise errors.ServerUnreachableException(f"the connection to process {self.pid} broke off")
        return end

    def _explained(self, error: errors.SandboxException) -> errors.SandboxException:
        if self._stopped:
            return self._left()
        broken = isinstance(error, errors.ServerUnreachableException | errors.TimeoutException)
        return self._link.why_broken(error) if broken else error

    def _left(self) -> errors.SandboxException:
        return errors.SandboxNotOpenException(f"this program follows process {self.pid} no more")

    def stop(self) -> None:
        """Follow it no more; it goes on."""
        self._stopped = True
        if self._worker is not None:
            self._worker.stop()

    def kill(self, timeout: float | None) -> bool:
        """SIGKILL; False if it has ended already. Raises: SandboxException."""
        return kill(self._link, self.pid, self._raises, timeout)

    def write(self, kind: str, data: str | bytes, timeout: float | None) -> None:
        """Write to its `stdin` or `pty`. Raises: NotFoundException: it has ended; SandboxException."""
        message = {"process": {"pid": self.pid}, "input": {kind: wire.base64_text(data)}}
        self._link.rpc("process.Process/SendInput", message, self._raises, timeout)


def kill(link: Link, pid: int, raises: type[errors.SandboxException], timeout: float | None) -> bool:
    """SIGKILL for a process; False if there is none (any more)."""
    message = {"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL"}
    try:
        link.rpc("process.Process/SendSignal", message, raises, timeout)
    except errors.SandboxNotFoundException:
        raise
    except errors.NotFoundException:
        return False
    return True


def tell(link: Link, callback: Callable[..., Any] | None, *arguments: Any) -> None:
    """Call a user's callback. What it raises is logged: the output that comes after it still counts."""
    if callback is None:
        return
    try:
        call(callback, *arguments)
    except Exception:  # it is the user's code: anything may come
        link.logger.exception("the callback %r failed", callback)


def shell(command: str, *options: str) -> Json:
    """The fields that make a login shell run a command, as all clients do (current-protocol 9.1)."""
    return {"cmd": "/bin/bash", "args": [*options, "-l", "-c", command]}
