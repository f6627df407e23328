"""Users and directories of an image, made without its own tools: an image need not have any."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from sandpit.guest.agent.accounts import Account, UnknownAccountError, find_account
from sandpit.guest.template.errors import StepFailed

PASSWD = Path("/etc/passwd")
GROUP = Path("/etc/group")
SHADOW = Path("/etc/shadow")
_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_FIRST_ID, _LAST_ID = 1000, 60000
_OPEN_DIRECTORIES = ("/usr/local", "/usr/local/bin", "/usr/local/lib", "/code")


def provision(user: str) -> None:
    """What sandboxes offer (current-protocol 10.3): the default user, and sudo where there is one. Raises: StepFailed, OSError."""
    account = add_user(user)
    for folder in _OPEN_DIRECTORIES:
        path = Path(folder)
        if not path.is_symlink():
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(0o777)
    rules = Path("/etc/sudoers.d")
    if rules.is_dir():
        file = rules / "sandpit"
        file.write_text(f"{account.name} ALL=(ALL:ALL) NOPASSWD: ALL\n")
        file.chmod(0o440)


def add_user(user: str) -> Account:
    """A user by name, made if missing, with a home directory and a group of its own. Raises: StepFailed."""
    try:
        return find_account(user)
    except UnknownAccountError as error:
        if error.why:
            raise StepFailed(str(error)) from None
    if not _NAME.fullmatch(user):
        raise StepFailed(f"'{user}' cannot be a user's name: a-z, 0-9, '-' and '_', 32 at most")
    number = _free_id()
    home = Path("/home", user)
    shell = next((shell for shell in ("/bin/bash", "/bin/sh") if Path(shell).exists()), "/bin/sh")
    _append(PASSWD, f"{user}:x:{number}:{number}::{home}:{shell}", seed="root:x:0:0:root:/root:/bin/sh")
    _append(GROUP, f"{user}:x:{number}:", seed="root:x:0:")
    if SHADOW.exists():
        _append(SHADOW, f"{user}:*:19000:0:99999:7:::")
    home.parent.mkdir(parents=True, exist_ok=True)
    if not home.exists():
        skeleton = Path("/etc/skel")
        if skeleton.is_dir():
            shutil.copytree(skeleton, home, symlinks=True)
        else:
            home.mkdir()
        home.chmod(0o755)
        for folder, names, files in os.walk(home):
            for name in (*names, *files):
                os.chown(os.path.join(folder, name), number, number, follow_symlinks=False)  # noqa: PTH118
        os.chown(home, number, number)
    return find_account(user)


def make_directory(path: str, user: str) -> None:
    """A working directory; those that are new belong to the user. Raises: StepFailed, OSError."""
    account = account_of(user)
    missing = []
    directory = Path(path)
    while not directory.exists():
        missing.append(directory)
        directory = directory.parent
    if not Path(path).exists():
        Path(path).mkdir(parents=True)
    elif not Path(path).is_dir():
        raise StepFailed(f"'{path}' cannot be the working directory: it is a file")
    for made in missing:
        os.chown(made, account.uid, account.gid)


def account_of(user: str) -> Account:
    """A user by name or number, with a group if one is named: `user[:group]`. Raises: StepFailed."""
    name, _, group = user.partition(":")
    if name.isdecimal():
        account = Account(name, int(name), int(name), (int(name),), "/")
    else:
        try:
            account = find_account(name)
        except UnknownAccountError as error:
            raise StepFailed(str(error)) from None
    if not group:
        return account
    return Account(account.name, account.uid, _group_id(group), account.groups, account.home)


def _group_id(group: str) -> int:
    if group.isdecimal():
        return int(group)
    for line in _lines(GROUP):
        fields = line.split(":")
        if fields[0] == group and len(fields) > 2 and fields[2].isdecimal():
            return int(fields[2])
    raise StepFailed(f"invalid group: '{group}'")


def _free_id() -> int:
    used = {line.split(":")[2] for file in (PASSWD, GROUP) for line in _lines(file) if line.count(":") >= 2}
    return next(number for number in range(_FIRST_ID, _LAST_ID) if str(number) not in used)


def _append(file: Path, line: str, seed: str | None = None) -> None:
    lines = _lines(file) or ([seed] if seed is not None else [])
    mode = file.stat().st_mode & 0o7777 if file.exists() else 0o644
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join([*lines, line, ""]), errors="surrogateescape")
    file.chmod(mode)


def _lines(file: Path) -> list[str]:
    try:
        return [line for line in file.read_text(errors="surrogateescape").split("\n") if line]
    except FileNotFoundError:
        return []
