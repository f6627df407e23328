"""What tasks do where the blocking twin has threads. `_sync/_concurrency.py` has the same names; neither is generated.

Background work belongs to the sandbox object that started it, which stops it when it is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sandpit.sdk.uploads import async_pieces as streamed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Generator

    import httpx

__all__ = ["Opening", "Outcome", "Periodic", "Worker", "abort", "call", "streamed", "time_limit"]

T = TypeVar("T")
Opener = TypeVar("Opener", bound="Opening")


class Opening:
    """An object that is opened by awaiting it: a constructor cannot wait."""

    def _begin(self) -> None:
        """The end of the constructor."""

    async def _opened(self) -> Any:
        raise NotImplementedError

    def __await__(self: Opener) -> Generator[Any, None, Opener]:
        return self._opened().__await__()


class Worker:
    """Runs a function beside its caller, until it returns or is stopped.

    `interrupt` is for threads: tasks are cancelled.
    """

    def __init__(self, run: Callable[[], Awaitable[None]], name: str, interrupt: Callable[[], None]) -> None:
        self.stopping = False
        self._task = asyncio.ensure_future(_run(run))
        self._task.set_name(name)

    async def stop(self) -> None:
        """End it, and return when it has ended. Its own work, when that calls this, has to look at `stopping`."""
        self.stopping = True
        if self._task is not asyncio.current_task():
            self._task.cancel()
            await asyncio.wait([self._task])


async def _run(run: Callable[[], Awaitable[None]]) -> None:
    await run()


class Periodic(Worker):
    """Runs a function again and again, `period` seconds apart, beginning after the first."""

    def __init__(self, action: Callable[[], Awaitable[None]], name: str, period: float) -> None:
        async def run() -> None:
            while not self.stopping:
                await asyncio.sleep(period)
                await action()

        super().__init__(run, name, lambda: None)


class Outcome(Generic[T]):
    """A value or an exception that comes later, once."""

    def __init__(self) -> None:
        self._future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def done(self) -> bool:
        """Whether it has come."""
        return self._future.done()

    def set_result(self, value: T) -> None:
        """Let it come; only the first one counts."""
        if not self._future.done():
            self._future.set_result(value)

    def set_exception(self, error: Exception) -> None:
        """Let it fail, likewise."""
        if not self._future.done():
            self._future.set_exception(error)
            self._future.exception()  # nobody has to look at it

    async def result(self, timeout: float | None = None) -> T:
        """Wait for it at most `timeout` seconds. Raises: TimeoutError; what it failed with."""
        async with asyncio.timeout(timeout):
            return await asyncio.shield(self._future)


@contextlib.asynccontextmanager
async def time_limit(seconds: float | None, response: httpx.Response | None = None) -> AsyncIterator[None]:
    """Raises TimeoutError when what is inside takes longer. `response`: what threads have to cut for that."""
    async with asyncio.timeout(seconds):
        yield


def abort(response: httpx.Response) -> None:
    """For threads: a task that reads is cancelled."""


async def call(callback: Callable[..., Any], *arguments: Any) -> None:
    """Call a user's function, which may be a coroutine function."""
    result = callback(*arguments)
    if inspect.isawaitable(result):
        await result
