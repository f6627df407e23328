"""The service `filesystem` (legacy-protocol 3.5). It works as root; what it makes belongs to the default user."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import os
import stat
from typing import TYPE_CHECKING, Any

from sandpit.guest.agent.accounts import Account, resolve_path
from sandpit.guest.agent.files import tree
from sandpit.guest.agent.files.entries import printable
from sandpit.guest.agent.files.error import FileError
from sandpit.guest.agent.files.target import check_regular
from sandpit.guest.agent.files.watch import EventsLostError, TooManyWatchersError, WatcherTable
from sandpit.guest.agent.legacy.rpc import Method, RpcError
from sandpit.guest.agent.legacy.shells import Clock, owner

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sandpit.guest.agent.control.state import AgentState
    from sandpit.guest.agent.files.watch import Watcher
    from sandpit.guest.agent.legacy.rpc import Subscription

MAX_FILE_BYTES = 256 << 20
"""Of one read: the whole file is in one message. Downloads have no limit."""
_WRITE = os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_MODE = 0o755
"""As in 2024: scripts that were written can be run."""
_ATTEMPTS = 8
_WITHOUT_KIND = frozenset({"Remove", "Rename"})


class FilesystemService:
    """Whole files in one message, and watches."""

    events: Mapping[str, int] = {"watchDir": 1}

    def __init__(self, state: AgentState) -> None:
        self._state = state
        self._watchers = WatcherTable()
        self._watches: dict[str, asyncio.Task[None]] = {}
        self.methods: Mapping[str, Method] = {
            "read": Method(self.read, (str,), 1),
            "readBase64": Method(self.read_base64, (str,), 1),
            "write": Method(self.write, (str, str), 2),
            "writeBase64": Method(self.write_base64, (str, str), 2),
            "list": Method(self.list, (str,), 1),
            "makeDir": Method(self.make_dir, (str,), 1),
            "remove": Method(self.remove, (str,), 1),
        }

    async def read(self, path: str) -> str:
        """The text of a file."""
        content: bytes = await self._run(f"error reading file '{path}'", path, _read)
        return content.decode("utf-8", "replace")

    async def read_base64(self, path: str) -> str:
        """The bytes of a file."""
        content: bytes = await self._run(f"error reading file '{path}'", path, _read)
        return await asyncio.to_thread(lambda: base64.b64encode(content).decode())

    async def write(self, path: str, text: str) -> None:
        """Make a file, or replace what is in it."""
        content = text.encode("utf-8", "replace")
        await self._run(f"error writing to file '{path}'", path, lambda at, whose: _write(at, content, whose))

    async def write_base64(self, path: str, text: str) -> None:
        """The same with bytes."""
        try:
            content = await asyncio.to_thread(base64.b64decode, text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise RpcError(f"error decoding bytes from base64 for file '{path}': {error}") from None
        await self._run(f"error writing to file '{path}'", path, lambda at, whose: _write(at, content, whose))

    async def list(self, path: str) -> Any:
        """What is in a directory."""
        return await self._run(f"error listing files in '{path}'", path, _list)

    async def make_dir(self, path: str) -> None:
        """Make a directory and its parents."""
        failure = f"error creating a new directory '{path}'"
        await self._run(failure, path, tree.make_directories, verb="mkdir")

    async def remove(self, path: str) -> None:
        """Remove whatever is there."""
        failure = f"error removing file or directory '{path}'"
        await self._run(failure, path, lambda at, _: tree.remove(at), verb="unlinkat")

    async def subscribe(self, subscription: Subscription) -> None:
        """Watch the direct children of a directory."""
        (given,) = subscription.arguments
        path = os.path.normpath(self._resolve(given, owner(self._state)))
        failure = f"error adding path to dwatcher: '{given}': "
        if not await asyncio.to_thread(os.path.exists, path):
            raise RpcError(f"{failure}doesn't exist. Only existing paths are supported")
        if not await asyncio.to_thread(os.path.isdir, path):
            raise RpcError(f"{failure}is not a directory. Only directories are supported")
        try:
            watcher = await self._watchers.open(path, recursive=False, include_entry=False)
        except (OSError, TooManyWatchersError) as error:
            raise RpcError(f"{failure}{error}") from None
        self._watches[subscription.id] = asyncio.create_task(self._watch(watcher, path, subscription))

    def unsubscribe(self, subscription: Subscription) -> None:
        if (watch := self._watches.pop(subscription.id, None)) is not None:
            watch.cancel()

    async def _watch(self, watcher: Watcher, path: str, subscription: Subscription) -> None:
        clock = Clock()
        try:
            while True:
                await watcher.wait()
                with contextlib.suppress(EventsLostError):  # those of 2024 cannot be told
                    for event in await watcher.take():
                        if (told := _event(path, event, clock.now())) is not None:
                            await subscription.send(told)
        finally:
            self._watchers.close(watcher)

    def _resolve(self, path: str, account: Account) -> str:
        return resolve_path(path, account, None)

    async def _run(self, failure: str, given: str, work: Callable[[str, Account], Any], *, verb: str = "open") -> Any:
        """Call `work` with path and owner, in a thread. Raises: RpcError that begins with `failure`."""
        account = owner(self._state)
        try:
            return await asyncio.to_thread(work, self._resolve(given, account), account)
        except IsADirectoryError:
            raise RpcError(f"{failure}: {'read' if work is _read else verb} {given}: is a directory") from None
        except OSError as error:
            raise RpcError(f"{failure}: {verb} {given}: {(error.strerror or str(error)).lower()}") from None
        except FileError as error:
            raise RpcError(f"{failure}: {error.message}") from None
        except ValueError as error:  # a NUL byte, or text that is no Unicode
            raise RpcError(f"{failure}: {verb} {given}: invalid argument ({error})") from None


def _read(path: str, _: Account) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(path)
        if not stat.S_ISREG(status.st_mode):
            raise FileError(400, f"{path} is not a regular file")
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise FileError(413, f"{path} is larger than {MAX_FILE_BYTES >> 20} MiB; download it")
    return content


def _write(path: str, content: bytes, account: Account) -> None:
    """Watchers see a new file's creation, then its content: it changes hands last."""
    descriptor, created = _open_for_writing(path)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        if created:
            os.fchown(descriptor, account.uid, account.gid)
    finally:
        os.close(descriptor)


def _open_for_writing(path: str) -> tuple[int, bool]:
    """First without O_CREAT, which the kernel refuses root for others' files in sticky directories. Raises: OSError, FileError."""
    for _ in range(_ATTEMPTS):
        try:
            check_regular(path, os.stat(path))
            return os.open(path, _WRITE | os.O_TRUNC), False
        except FileNotFoundError:
            # O_EXCL does not follow a link that leads to nothing; the file is made where it leads.
            at = os.path.realpath(path) if os.path.islink(path) else path
            with contextlib.suppress(FileExistsError):  # somebody was faster: open theirs
                return os.open(at, _WRITE | os.O_CREAT | os.O_EXCL, _MODE), True
    raise FileError(409, f"{path} keeps being removed and made anew by somebody else")


def _list(path: str, _: Account) -> list[dict[str, Any]]:
    with os.scandir(path) as entries:
        found = [(printable(entry.name), entry.is_dir(follow_symlinks=False)) for entry in entries]
    return [{"name": name, "isDir": is_directory} for name, is_directory in sorted(found)]


def _event(directory: str, event: dict[str, Any], timestamp: int) -> dict[str, Any] | None:
    """One of the daemon's events; None for those about the directory itself."""
    name, operation = event["name"], event["type"].removeprefix("EVENT_TYPE_").capitalize()
    if name == ".":
        return None
    path = f"{directory.rstrip('/')}/{name}"
    return {
        "path": path,
        "name": name,
        "operation": operation,
        "timestamp": timestamp,
        "isDir": operation not in _WITHOUT_KIND and os.path.isdir(path),
    }
