"""What threads do where the async twin has tasks. `_async/_concurrency.py` has the same names; neither is generated.

Threads are daemons: a program that ends without closing its sandboxes ends all the same.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sandpit.sdk.uploads import pieces as streamed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import httpx

__all__ = ["Opening", "Outcome", "Periodic", "Worker", "abort", "call", "streamed", "time_limit"]

T = TypeVar("T")


class Opening:
    """An object that its constructor opens."""

    def _begin(self) -> None:
        """The end of the constructor."""
        self._opened()

    def _opened(self) -> Any:
        raise NotImplementedError


class Worker:
    """Runs a function beside its caller, until it returns or is stopped.

    `interrupt` makes the function return soon; it is called from another thread.
    """

    def __init__(self, run: Callable[[], None], name: str, interrupt: Callable[[], None]) -> None:
        self.stopping = False
        self._interrupt = interrupt
        self._thread = threading.Thread(target=run, name=name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it, and return when it has ended. Its own work, when that calls this, has to look at `stopping`."""
        self.stopping = True
        self._interrupt()
        if self._thread is not threading.current_thread():
            self._thread.join()


class Periodic(Worker):
    """Runs a function again and again, `period` seconds apart, beginning after the first."""

    def __init__(self, action: Callable[[], None], name: str, period: float) -> None:
        stopped = threading.Event()

        def run() -> None:
            while not stopped.wait(period):
                action()

        super().__init__(run, name, stopped.set)


class Outcome(Generic[T]):
    """A value or an exception that comes later, once."""

    def __init__(self) -> None:
        self._future: concurrent.futures.Future[T] = concurrent.futures.Future()

    def done(self) -> bool:
        """Whether it has come."""
        return self._future.done()

    def set_result(self, value: T) -> None:
        """Let it come; only the first one counts."""
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            self._future.set_result(value)

    def set_exception(self, error: Exception) -> None:
        """Let it fail, likewise."""
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            self._future.set_exception(error)

    def result(self, timeout: float | None = None) -> T:
        """Wait for it at most `timeout` seconds. Raises: TimeoutError; what it failed with."""
        return self._future.result(timeout)


@contextlib.contextmanager
def time_limit(seconds: float | None, response: httpx.Response | None = None) -> Iterator[None]:
    """Raises TimeoutError when reading `response` takes longer. Without one, the client's own time limits have to do."""
    if seconds is None or response is None:
        yield
        return
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        abort(response)

    timer = threading.Timer(max(seconds, 0), expire)
    timer.daemon = True
    timer.start()
    try:
        yield
    except Exception as error:
        if expired.is_set():
            raise TimeoutError from error
        raise
    finally:
        timer.cancel()


def abort(response: httpx.Response) -> None:
    """Let a thread that reads this answer fail: closing a socket would not wake it."""
    connection = response.extensions["network_stream"].get_extra_info("socket")
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def call(callback: Callable[..., Any], *arguments: Any) -> None:
    """Call a user's function."""
    callback(*arguments)
