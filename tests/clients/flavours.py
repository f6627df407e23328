"""The two flavours of the Python clients, blocking and async, driven by the same test: `await got(...)` takes either's answer."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import e2b
import e2b_code_interpreter
import pytest
import pytest_asyncio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    Create = Callable[..., Awaitable[Any]]

_numbers = itertools.count()
PATIENCE = 20.0
"""Seconds to wait for what must come at some time."""


@dataclass(frozen=True)
class Flavour:
    """The classes of one flavour."""

    name: str
    Sandbox: Any
    Interpreter: Any

    @property
    def blocking(self) -> bool:
        return self.name == "blocking"


FLAVOURS = (
    Flavour("blocking", e2b.Sandbox, e2b_code_interpreter.Sandbox),
    Flavour("async", e2b.AsyncSandbox, e2b_code_interpreter.AsyncSandbox),
)


async def got(value: Any) -> Any:
    """What a call of either flavour answers."""
    return await value if inspect.isawaitable(value) else value


async def each(items: Any) -> AsyncIterator[Any]:
    """The items of a blocking or an async iterable."""
    if hasattr(items, "__aiter__"):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


async def until(question: Callable[[], Any]) -> Any:
    """Ask until the answer is true; returns it. For what happens behind an answer, or by a clock."""
    deadline = time.monotonic() + PATIENCE
    while not (answer := await got(question())):
        assert time.monotonic() < deadline, "this did not come"
        await asyncio.sleep(0.05)
    return answer


@pytest.fixture(params=FLAVOURS, ids=lambda flavour: flavour.name)
def flavour(request: pytest.FixtureRequest, clients: dict[str, str]) -> Flavour:
    """Each test that takes it runs once with each."""
    chosen: Flavour = request.param
    return chosen


@pytest_asyncio.fixture(loop_scope="session")
async def create(flavour: Flavour) -> AsyncIterator[Create]:
    """`Sandbox.create`; what it made ends with the test."""
    made: list[Any] = []

    async def make(*arguments: Any, cls: Any = None, **options: Any) -> Any:
        made.append(await got((cls or flavour.Sandbox).create(*arguments, **options)))
        return made[-1]

    yield make
    for sandbox in made:
        await got(sandbox.kill())


@pytest.fixture(scope="module")
def shared(clients: dict[str, str]) -> Iterator[e2b.Sandbox]:
    """One sandbox of `base` for the tests of a file that do not change what others see."""
    with e2b.Sandbox.create(timeout=900) as sandbox:
        yield sandbox


@pytest_asyncio.fixture(loop_scope="session")
async def sandbox(flavour: Flavour, shared: e2b.Sandbox) -> Any:
    """The file's sandbox, through this flavour."""
    return shared if flavour.blocking else await e2b.AsyncSandbox.connect(shared.sandbox_id)


@pytest.fixture
def home(shared: e2b.Sandbox) -> str:
    """A new empty directory in the file's sandbox; absolute, owned by `user`."""
    path = f"/home/user/test-{next(_numbers)}"
    assert shared.files.make_dir(path)
    return path
