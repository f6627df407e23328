"""EntryInfo messages, and walking directories (current-protocol 6.1 and 6.2). Blocking: call it in a thread."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sandpit.guest.agent.accounts import group_name, user_name
from sandpit.guest.agent.files import metadata

if TYPE_CHECKING:
    from collections.abc import Iterator

_NANOSECONDS = 1_000_000_000
# The range of protobuf's Timestamp: years 1 to 9999.
_FIRST_SECOND, _LAST_SECOND = -62135596800, 253402300799

_KINDS = {stat.S_IFREG: "FILE_TYPE_FILE", stat.S_IFDIR: "FILE_TYPE_DIRECTORY", stat.S_IFLNK: "FILE_TYPE_SYMLINK"}
_KIND_LETTERS = {
    stat.S_IFDIR: "d",
    stat.S_IFLNK: "L",
    stat.S_IFBLK: "D",
    stat.S_IFIFO: "p",
    stat.S_IFSOCK: "S",
    stat.S_IFCHR: "Dc",
}
_SPECIAL_LETTERS = ((stat.S_ISUID, "u"), (stat.S_ISGID, "g"), (stat.S_ISVTX, "t"))


class Names:
    """Names of users and groups, asked for once: each question checks whether /etc/passwd changed."""

    def __init__(self) -> None:
        self._users: dict[int, str] = {}
        self._groups: dict[int, str] = {}

    def user(self, uid: int) -> str:
        """The user's name."""
        if uid not in self._users:
            self._users[uid] = printable(user_name(uid))
        return self._users[uid]

    def group(self, gid: int) -> str:
        """The group's name."""
        if gid not in self._groups:
            self._groups[gid] = printable(group_name(gid))
        return self._groups[gid]


def describe(path: str, names: Names | None = None) -> dict[str, Any]:
    """The EntryInfo of `path`, which is absolute. Raises: OSError when it does not exist.

    Of a symbolic link, `type` and `mode` are the target's, the rest is the link's. `isSymlink` is left out: the
    clients of 2.45 expect a link to a file to be a file with `symlinkTarget`, newer ones would turn it into a
    SYMLINK. A link that leads nowhere is FILE_TYPE_SYMLINK, since clients drop entries without a type.
    """
    status = os.lstat(path)
    shown = status
    names = names or Names()
    entry: dict[str, Any] = {}
    if stat.S_ISLNK(status.st_mode):
        entry["symlinkTarget"] = printable(os.path.realpath(path))
        shown = _target(path) or status
    mode = shown.st_mode
    entry.update(
        name=printable(base_name(path)),
        type=_KINDS.get(stat.S_IFMT(mode), "FILE_TYPE_UNSPECIFIED"),
        path=printable(path),
        size=str(status.st_size),
        mode=mode & 0o777,
        permissions=permissions(status.st_mode),
        owner=names.user(status.st_uid),
        group=names.group(status.st_gid),
        modifiedTime=timestamp(status.st_mtime_ns),
    )
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        found = metadata.read(path)
        if found:
            entry["metadata"] = {printable(key): value for key, value in found.items()}
    return entry


def walk(root: str, depth: int) -> Iterator[dict[str, Any]]:
    """The entries below `root` down to `depth` levels, in lexical order, a directory before its children.

    Symbolic links below the root are not followed. What disappears during the walk is left out.
    Raises: OSError when the root cannot be listed.
    """
    prefix = root.rstrip("/")
    owners = Names()
    levels = [(prefix, iter(sorted(os.listdir(root))))]
    while levels:
        directory, names = levels[-1]
        name = next(names, None)
        if name is None:
            levels.pop()
            continue
        path = f"{directory}/{name}"
        try:
            entry = describe(path, owners)
        except OSError:
            continue
        yield entry
        if len(levels) < depth and entry["type"] == "FILE_TYPE_DIRECTORY" and "symlinkTarget" not in entry:
            levels.append((path, iter(_names(path))))


def base_name(path: str) -> str:
    """The last component, `/` for the root."""
    return os.path.basename(path.rstrip("/")) or "/"


def permissions(mode: int) -> str:
    """Type and permission bits in the official server's spelling: `-rw-r--r--`, `drwxr-xr-x`, `dtrwxrwxrwx`."""
    letters = _KIND_LETTERS.get(stat.S_IFMT(mode), "")
    letters += "".join(letter for bit, letter in _SPECIAL_LETTERS if mode & bit)
    bits = "".join("rwxrwxrwx"[8 - bit] if mode >> bit & 1 else "-" for bit in range(8, -1, -1))
    return (letters or "-") + bits


def timestamp(nanoseconds: int) -> str:
    """A protobuf Timestamp in JSON: RFC 3339 with nine decimals."""
    seconds, rest = divmod(nanoseconds, _NANOSECONDS)
    seconds = min(max(seconds, _FIRST_SECOND), _LAST_SECOND)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z".rjust(30, "0")


def printable(text: str) -> str:
    """File names are bytes, JSON strings are not: what is not UTF-8 becomes U+FFFD."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _target(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None


def _names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []
