"""Linux accounts of the image, and the paths that depend on them.

The image's own `/etc/passwd` and `/etc/group` are parsed here: the agent brings its own libc, whose name
service modules need not exist in the image.
"""

from __future__ import annotations

import os
import posixpath
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PASSWD = Path("/etc/passwd")
GROUP = Path("/etc/group")


class UnknownAccountError(LookupError):
    """No account of this name is in the image's /etc/passwd, or none that can be used here: `why` says so."""

    def __init__(self, name: str, why: str = "") -> None:
        super().__init__(f"invalid username: '{name}'{why}")
        self.name, self.why = name, why


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
    beyond = [number for number in (account.uid, *account.groups) if number >= _numbers()]
    if beyond:
        raise UnknownAccountError(
            name,
            f": number {beyond[0]}, its own or of a group, does not exist in this sandbox, where they end at {_numbers() - 1}; "
            "give it a smaller one in the image, or use gVisor",
        )
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


@cache
def _numbers() -> int:
    """How many users and groups, from 0 on, the kernel knows here: a sandbox on crun has a user namespace (user_namespaces(7))."""
    maps = [path.read_text().split() for path in (Path("/proc/self/uid_map"), Path("/proc/self/gid_map"))]
    return min(int(fields[2]) if len(fields) == 3 and fields[0] == "0" else 1 << 32 for fields in maps)


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
