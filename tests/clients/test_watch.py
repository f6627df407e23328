"""Watching directories (current-protocol 11.8)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import e2b
import pytest
from e2b import FilesystemEventType as Kind
from tests.clients.flavours import Flavour, got, until

if TYPE_CHECKING:
    Sandbox = Any


class Watch:
    """A watched directory: the blocking client asks for events, the async one is told."""

    def __init__(self, flavour: Flavour, sandbox: Sandbox) -> None:
        self.events: list[e2b.FilesystemEvent] = []
        self.ends: list[Exception | None] = []
        self._blocking = flavour.blocking
        self._files = sandbox.files

    async def start(self, path: str, **options: Any) -> Watch:
        if self._blocking:
            self._handle = self._files.watch_dir(path, **options)
        else:
            self._handle = await self._files.watch_dir(path, self.events.append, self.ends.append, **options)
        return self

    async def stop(self) -> None:
        await got(self._handle.stop())

    async def seen(self) -> list[tuple[Kind, str]]:
        """All events until now."""
        if self._blocking:
            self.events += self._handle.get_new_events()
        return [(event.type, event.name) for event in self.events]

    async def until(self, *expected: tuple[Kind, str]) -> list[tuple[Kind, str]]:
        """Wait for events, among others; returns all."""

        async def there() -> list[tuple[Kind, str]]:
            seen = await self.seen()
            return seen if set(expected) <= set(seen) else []

        found: list[tuple[Kind, str]] = await until(there)
        return found


@pytest.fixture
def watch(flavour: Flavour, sandbox: Sandbox) -> Watch:
    return Watch(flavour, sandbox)


async def test_write(sandbox: Sandbox, home: str, watch: Watch) -> None:
    await got(sandbox.files.write(f"{home}/file", "old"))
    await watch.start(home)
    await got(sandbox.files.write(f"{home}/file", "new"))
    seen = await watch.until((Kind.WRITE, "file"))
    assert Kind.CREATE not in {kind for kind, _ in seen}
    await watch.stop()


async def test_a_new_file_is_three_events(sandbox: Sandbox, home: str, watch: Watch) -> None:
    await watch.start(home)
    await got(sandbox.files.write(f"{home}/new", "x"))
    if not watch._blocking:
        await watch.until((Kind.WRITE, "new"))
        await asyncio.sleep(0.3)
    # Asked right after the upload's answer, the blocking client gets all of them.
    assert await watch.seen() == [(Kind.CREATE, "new"), (Kind.CHMOD, "new"), (Kind.WRITE, "new")]
    if watch._blocking:
        await asyncio.sleep(0.3)
        assert len(await watch.seen()) == 3
    await watch.stop()


async def test_all_kinds(sandbox: Sandbox, home: str, watch: Watch) -> None:
    await got(sandbox.commands.run("touch a b", cwd=home))
    await watch.start(home)
    await got(sandbox.commands.run("chmod 600 a; mv a c; rm b; mkdir d; echo x >> c", cwd=home))
    seen = await watch.until(
        (Kind.CHMOD, "a"),
        (Kind.RENAME, "a"),
        (Kind.CREATE, "c"),
        (Kind.REMOVE, "b"),
        (Kind.CREATE, "d"),
        (Kind.WRITE, "c"),
    )
    assert seen.index((Kind.CHMOD, "a")) < seen.index((Kind.RENAME, "a")) < seen.index((Kind.REMOVE, "b"))
    await watch.stop()


async def test_not_recursive(sandbox: Sandbox, home: str, watch: Watch) -> None:
    await got(sandbox.files.make_dir(f"{home}/sub"))
    await watch.start(home)
    await got(sandbox.files.write(f"{home}/sub/file", "x"))
    await got(sandbox.files.write(f"{home}/last", "x"))
    seen = await watch.until((Kind.WRITE, "last"))
    assert {name for _, name in seen} == {"last"}
    await watch.stop()


async def test_recursive(sandbox: Sandbox, home: str, watch: Watch) -> None:
    await got(sandbox.files.make_dir(f"{home}/sub"))
    await watch.start(home, recursive=True)
    await got(sandbox.files.write(f"{home}/sub/file", "x"))
    seen = await watch.until((Kind.WRITE, "sub/file"))
    assert seen == [(Kind.CREATE, "sub/file"), (Kind.CHMOD, "sub/file"), (Kind.WRITE, "sub/file")]
    await got(sandbox.files.make_dir(f"{home}/late"))
    await watch.until((Kind.CREATE, "late"))
    await got(sandbox.files.write(f"{home}/late/file", "x"))
    await watch.until((Kind.CREATE, "late/file"), (Kind.WRITE, "late/file"))
    await got(sandbox.files.write(f"{home}/at/once/file", "x"))
    await watch.until((Kind.CREATE, "at"), (Kind.CREATE, "at/once"), (Kind.CREATE, "at/once/file"))
    await watch.stop()


async def test_entries(sandbox: Sandbox, home: str, watch: Watch) -> None:
    await watch.start(home, include_entry=True)
    await got(sandbox.files.write(f"{home}/file", "12345"))
    await watch.until((Kind.WRITE, "file"))
    entry = next(event.entry for event in watch.events if event.type == Kind.WRITE)
    assert entry is not None
    assert (entry.path, entry.type, entry.size, entry.owner) == (f"{home}/file", e2b.FileType.FILE, 5, "user")
    await got(sandbox.files.remove(f"{home}/file"))
    await watch.until((Kind.REMOVE, "file"))
    assert [event.entry for event in watch.events if event.type == Kind.REMOVE] == [None]
    await watch.stop()


async def test_no_entries_unless_asked_for(sandbox: Sandbox, home: str, watch: Watch) -> None:
    await watch.start(home, allow_network_mounts=True)
    await got(sandbox.files.write(f"{home}/file", "12345"))
    await watch.until((Kind.WRITE, "file"))
    assert {event.entry for event in watch.events} == {None}
    await watch.stop()


async def test_what_cannot_be_watched(sandbox: Sandbox, home: str, watch: Watch) -> None:
    with pytest.raises(e2b.FileNotFoundException):
        await watch.start(f"{home}/absent")
    await got(sandbox.files.write(f"{home}/file", "x"))
    with pytest.raises(e2b.InvalidArgumentException):
        await watch.start(f"{home}/file")


async def test_stop(sandbox: Sandbox, home: str, watch: Watch) -> None:
    await watch.start(home)
    await got(sandbox.files.write(f"{home}/before", "x"))
    before = await watch.until((Kind.WRITE, "before"))
    await watch.stop()
    await got(sandbox.files.write(f"{home}/after", "x"))
    if watch._blocking:
        with pytest.raises(e2b.SandboxException):
            await watch.seen()
    else:
        await asyncio.sleep(0.3)
        assert await watch.seen() == before


async def test_many_events(sandbox: Sandbox, home: str, watch: Watch) -> None:
    await watch.start(home)
    await got(sandbox.commands.run("for n in $(seq 2000); do : > f$n; done", cwd=home))
    seen = await watch.until((Kind.CREATE, "f2000"))
    created = [name for kind, name in seen if kind == Kind.CREATE]
    assert created == [f"f{n}" for n in range(1, 2001)]
    await watch.stop()


async def test_a_watch_ends_with_its_sandbox(flavour: Flavour) -> None:
    if flavour.blocking:
        with e2b.Sandbox.create() as sandbox:
            handle = sandbox.files.watch_dir("/home/user")
        with pytest.raises(e2b.SandboxNotRunningException):
            handle.get_new_events()
        return
    async with await e2b.AsyncSandbox.create() as sandbox:
        watch = await Watch(flavour, sandbox).start("/home/user")
    await until(lambda: watch.ends)
    assert isinstance(watch.ends[0], e2b.TimeoutException)
