"""Linux accounts of the image, and the paths that depend on them.

The image's own `/etc/passwd` and `/etc/group` are parsed here: the agent brings its own libc, whose name
service modules need not exist in the image.
"""

from __future__ import annotations

import os
import posixpath
from dataclasses import dataclass
from pathlib import Path

PASSWD = Path("/etc/passwd")
GROUP = Path("/etc/group")


class UnknownAccountError(LookupError):
    """No account of this name is in the image's /etc/passwd."""

    def __init__(self, name: str) -> None:
        super().__init__(f"invalid username: '{name}'")
        self.name = name


@dataclass(frozen=True, slots=True)
class Account:
    """A Linux user of the image. `groups` are the supplementary group ids, the primary one included."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


@dataclass(frozen=True, slots=True)
class _Table:
    stamp: tuple[tuple[int, int, int] | None, ...]
    accounts: dict[str, Account]
    user_names: dict[int, str]
    group_names: dict[int, str]


_table: _Table | None = None


def find_account(name: str) -> Account:
    """The account called `name`. Raises: UnknownAccountError. Without any /etc/passwd there still is `root`."""
    account = _read().accounts.get(name)
    if account is None:
        raise UnknownAccountError(name)
    return account


def user_name(uid: int) -> str:
    """The name of a user id, or the number itself as text."""
    return _read().user_names.get(uid) or str(uid)


def group_name(gid: int) -> str:
    """The name of a group id, or the number itself as text."""
    return _read().group_names.get(gid) or str(gid)


def resolve_path(path: str, account: Account, default_workdir: str | None) -> str:
    """Make a client's path absolute (current-protocol 4.7): `~` and relative paths start at the home directory.

    An empty path is the default working directory, else the home directory. An absolute path stays as it is: whether
    `..` may be folded depends on symbolic links.
    """
    path = path or default_workdir or account.home
    if path == "~" or path.startswith("~/"):
        path = account.home + path[1:]
    if path.startswith("/"):
        return path
    return posixpath.normpath(posixpath.join(account.home, path))


def _read() -> _Table:
    """The parsed files, read again only when one of them changed (`adduser` in a running sandbox)."""
    global _table
    stamp = (_stamp(PASSWD), _stamp(GROUP))
    if _table is None or _table.stamp != stamp:
        _table = _parse(stamp, _lines(PASSWD), _lines(GROUP))
    return _table


def _parse(stamp: tuple[tuple[int, int, int] | None, ...], passwd: list[list[str]], group: list[list[str]]) -> _Table:
    group_names: dict[int, str] = {}
    memberships: dict[str, list[int]] = {}
    for fields in group:
        if len(fields) < 4 or not fields[2].isdecimal():
            continue
        gid = int(fields[2])
        group_names.setdefault(gid, fields[0])
        for member in filter(None, fields[3].split(",")):
            memberships.setdefault(member, []).append(gid)
    accounts: dict[str, Account] = {}
    for fields in passwd:
        if len(fields) < 6 or not (fields[2].isdecimal() and fields[3].isdecimal()):
            continue
        name, gid = fields[0], int(fields[3])
        groups = tuple(dict.fromkeys([gid, *memberships.get(name, ())]))
        accounts.setdefault(name, Account(name, int(fields[2]), gid, groups, fields[5] or "/"))
    accounts.setdefault("root", Account("root", 0, 0, (0,), "/root"))
    user_names: dict[int, str] = {}
    for account in accounts.values():
        user_names.setdefault(account.uid, account.name)
    return _Table(stamp, accounts, user_names, group_names)


def _lines(path: Path) -> list[list[str]]:
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return []
    return [line.split(":") for line in text.splitlines() if line and not line.startswith("#")]


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - Path.stat costs twice as much, and this is on the way of every call
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
