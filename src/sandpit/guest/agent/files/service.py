"""The file system service (current-protocol 6). All of it works as root; what it makes belongs to the call's user."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sandpit.guest.agent import fields
from sandpit.guest.agent.accounts import Account, resolve_path
from sandpit.guest.agent.connect import Call, server_stream, unary
from sandpit.guest.agent.connect_wire import ConnectError, Message
from sandpit.guest.agent.files import mounts, tree
from sandpit.guest.agent.files.entries import describe, walk
from sandpit.guest.agent.files.watch import (
    EventsLostError,
    TooManyWatchersError,
    UnknownWatcherError,
    Watcher,
    WatcherTable,
)
from sandpit.guest.agent.files.watch_tree import TooManyDirectoriesError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from starlette.routing import BaseRoute

    from sandpit.guest.agent.control.state import AgentState

_PREFIX = "/filesystem.Filesystem/"
# Encoded at once: large enough to be quick, small enough that the thread lets others run.
_BATCH = 1000

_CODES = {
    errno.ENOENT: "not_found",
    errno.EEXIST: "already_exists",
    errno.ENOTEMPTY: "already_exists",
    errno.ENOTDIR: "invalid_argument",
    errno.EISDIR: "invalid_argument",
    errno.EINVAL: "invalid_argument",
    errno.ELOOP: "invalid_argument",
    errno.ENAMETOOLONG: "invalid_argument",
    errno.EACCES: "permission_denied",
    errno.EPERM: "permission_denied",
    errno.EROFS: "failed_precondition",
    errno.EBUSY: "failed_precondition",
    errno.EOPNOTSUPP: "failed_precondition",
    errno.ENOSPC: "resource_exhausted",
    errno.EDQUOT: "resource_exhausted",
    errno.EMFILE: "resource_exhausted",
    errno.ENFILE: "resource_exhausted",
}


def routes(state: AgentState) -> list[BaseRoute]:
    """The routes of `filesystem.Filesystem`."""
    watches = _Watches()
    return [
        unary(_PREFIX + "Stat", stat_path),
        unary(_PREFIX + "ListDir", list_dir),
        unary(_PREFIX + "MakeDir", make_dir),
        unary(_PREFIX + "Move", move),
        unary(_PREFIX + "Remove", remove),
        server_stream(_PREFIX + "WatchDir", watches.watch_dir),
        unary(_PREFIX + "CreateWatcher", watches.create),
        unary(_PREFIX + "GetWatcherEvents", watches.events),
        unary(_PREFIX + "RemoveWatcher", watches.remove),
    ]


async def stat_path(message: Message, call: Call) -> Message:
    """Describe one path, without following a link for whether it exists."""
    path = _path(message, "path", call)
    with _errors():
        return {"entry": await asyncio.to_thread(_describe, path)}


async def list_dir(message: Message, call: Call) -> bytes:
    """Describe what is in a directory, down to a depth. Answers JSON: a large tree is encoded in the thread."""
    path = _path(message, "path", call)
    depth = max(fields.uint32(message, "depth") or 0, 1)
    with _errors():
        listed = await asyncio.to_thread(_list, path, depth)
    _tell(call, "debug", "directory listed", path)
    return listed


async def make_dir(message: Message, call: Call) -> Message:
    """Make a directory and its parents."""
    path = _path(message, "path", call)
    account = call.account
    with _errors():
        entry = await asyncio.to_thread(_make, path, account)
    _tell(call, "info", "directory made", path)
    return {"entry": entry}


async def move(message: Message, call: Call) -> Message:
    """Rename or move a path."""
    source, destination = _path(message, "source", call), _path(message, "destination", call)
    account = call.account
    with _errors():
        entry = await asyncio.to_thread(_move, source, destination, account)
    _tell(call, "info", "moved", source, to=destination)
    return {"entry": entry}


async def remove(message: Message, call: Call) -> Message:
    """Remove a path with all that is in it."""
    path = _path(message, "path", call)
    with _errors():
        await asyncio.to_thread(tree.remove, path)
    _tell(call, "info", "removed", path)
    return {}


@dataclass(slots=True)
class _Watches:
    table: WatcherTable = field(default_factory=WatcherTable)

    async def watch_dir(self, message: Message, call: Call) -> AsyncGenerator[Message | bytes, None]:
        """Stream events until the client goes away."""
        watcher = await self._open(message, call)
        try:
            yield {"start": {}}
            while True:
                try:
                    async with asyncio.timeout(call.keepalive_s):
                        await watcher.wait()
                except TimeoutError:
                    yield {"keepalive": {}}
                    continue
                with _errors():
                    events = await watcher.take()
                for event in events:
                    yield {"filesystem": event}
        finally:
            self.table.close(watcher)

    async def create(self, message: Message, call: Call) -> Message:
        """Start a watcher that is polled."""
        return {"watcherId": self.table.keep(await self._open(message, call))}

    async def events(self, message: Message, _call: Call) -> Message:
        """What happened since the last call, up to this one."""
        with _errors():
            return {"events": await self.table.find(fields.text(message, "watcherId")).take()}

    async def remove(self, message: Message, _call: Call) -> Message:
        """Stop a polled watcher."""
        with _errors():
            self.table.drop(fields.text(message, "watcherId"))
        return {}

    async def _open(self, message: Message, call: Call) -> Watcher:
        path = _path(message, "path", call)
        remote_allowed = fields.flag(message, "allowNetworkMounts")
        recursive, include_entry = fields.flag(message, "recursive"), fields.flag(message, "includeEntry")
        with _errors():
            await asyncio.to_thread(_check_watchable, path, remote_allowed)
            watcher = await self.table.open(path, recursive=recursive, include_entry=include_entry)
        _tell(call, "debug", "directory watched", path)
        return watcher


def _tell(call: Call, level: str, message: str, path: str, *, to: str | None = None) -> None:
    call.state.journal.add("filesystem", level, message, path=path, to=to, user=call.account.name)


def _path(message: Message, name: str, call: Call) -> str:
    return resolve_path(fields.text(message, name), call.account, call.state.default_workdir)


def _describe(path: str) -> Message:
    try:
        return describe(path)
    except NotADirectoryError:
        raise FileNotFoundError(errno.ENOENT, "no such file or directory", path) from None


def _list(path: str, depth: int) -> bytes:
    if not stat.S_ISDIR(os.stat(path).st_mode):
        raise ConnectError("invalid_argument", f"path is not a directory: {path}")
    parts: list[bytes] = []
    batch: list[Message] = []
    for entry in walk(path, depth):
        batch.append(entry)
        if len(batch) == _BATCH:
            parts.append(_encode(batch))
            batch.clear()
    if batch:
        parts.append(_encode(batch))
    return b'{"entries":[' + b",".join(parts) + b"]}"


def _encode(entries: list[Message]) -> bytes:
    return json.dumps(entries, separators=(",", ":"))[1:-1].encode()


def _make(path: str, account: Account) -> Message:
    if not tree.make_directories(path, account):
        raise ConnectError("already_exists", f"directory already exists: {path}")
    return describe(path)


def _move(source: str, destination: str, account: Account) -> Message:
    tree.move(source, destination, account)
    return describe(destination)


def _check_watchable(path: str, remote_allowed: bool) -> None:
    if not stat.S_ISDIR(os.stat(path).st_mode):
        raise ConnectError("invalid_argument", f"path is not a directory: {path}")
    remote = None if remote_allowed else mounts.remote_type(path)
    if remote:
        raise ConnectError(
            "invalid_argument",
            f"{path} is on a network mount ({remote}), where changes made elsewhere are not seen; "
            "set allowNetworkMounts to watch it nevertheless",
        )


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """Turn what the file system says into Connect errors."""
    try:
        yield
    except OSError as error:
        code = _CODES.get(error.errno or 0, "internal")
        where = f": {error.filename}" if isinstance(error.filename, str) else ""
        raise ConnectError(code, f"{error.strerror or error}{where}") from None
    except (ValueError, UnicodeError) as error:
        raise ConnectError("invalid_argument", f"not a valid path: {error}") from None
    except (TooManyWatchersError, TooManyDirectoriesError) as error:
        raise ConnectError("resource_exhausted", str(error)) from None
    except EventsLostError as error:
        raise ConnectError("data_loss", str(error)) from None
    except UnknownWatcherError as error:
        raise ConnectError("not_found", str(error)) from None
