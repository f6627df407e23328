"""Puts the shim in the place of the image's sudo, and again whenever a package manager brings a new one."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import shutil
import stat
from pathlib import Path

from sandpit.guest.agent.files import inotify

_LOG = logging.getLogger(__name__)

SUDO = Path("/usr/bin/sudo")
REAL = Path("/usr/libexec/sandpit/sudo")
"""For root alone: the shim tries to run it, and whoever cannot asks the agent. `sudoedit` beside it is the same program."""
_SHIM = """\
#!/bin/sh
# Sandpit: this sandbox's kernel ignores set-user-ID bits. The real program is {real}.
case $0 in sudoedit | */sudoedit) name=sudoedit ;; *) name=sudo ;; esac
if [ -x {directory}/$name ]; then exec {directory}/$name "$@"; fi
exec /.sandpit/lib/ld.so --library-path /.sandpit/lib /.sandpit/bin/python3 -I -S /.sandpit/run.py sudo $name "$@"
"""
_PR_GET_NO_NEW_PRIVS = 39
_CHANGES = inotify.IN_MOVED_TO | inotify.IN_CLOSE_WRITE | inotify.IN_ATTRIB
"""Not IN_CREATE: a file that somebody begins to write is no program yet."""


def kernel_ignores_set_user_id() -> bool:
    """Whether execve(2) grants nothing here: the meaning of no_new_privs (prctl(2)), which such kernels report for everybody."""
    return bool(ctypes.CDLL(None).prctl(_PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1)


def replace_sudo() -> None:
    """Put the shim in place of a real sudo, if there is one. Raises: OSError."""
    if not _is_real():
        return
    REAL.parent.mkdir(parents=True, exist_ok=True)
    draft = REAL.with_name(".sudo.new")
    shutil.copyfile(SUDO, draft)
    draft.chmod(0o700)
    draft.rename(REAL)
    edit = REAL.with_name("sudoedit")
    edit.unlink(missing_ok=True)
    edit.symlink_to(REAL.name)
    draft = SUDO.with_name(".sudo.sandpit")
    draft.write_text(_SHIM.format(real=REAL, directory=REAL.parent))
    draft.chmod(0o755)
    draft.rename(SUDO)


def keep_replaced() -> None:
    """Replace it now and later. Runs on the agent's event loop. An image without the directory has no sudo, and starts all the same."""
    watch = inotify.Inotify()
    try:
        watch.add(str(SUDO.parent), _CHANGES)
    except OSError as problem:
        watch.close()
        if not isinstance(problem, FileNotFoundError):
            _LOG.error("sudo is not watched: %s", problem)
    else:
        asyncio.get_running_loop().add_reader(watch.descriptor, _look, watch)
    _replace_or_say()


def _look(watch: inotify.Inotify) -> None:
    names = {event.name for event in watch.read()[0]}
    if names & {SUDO.name, ""}:  # without a name: the queue ran over
        _replace_or_say()


def _replace_or_say() -> None:
    try:
        replace_sudo()
    except OSError as problem:
        _LOG.error("sudo stays as it is: %s", problem)


def _is_real() -> bool:
    """Whether root's set-user-ID program is there. A script is our shim, whatever bits somebody gave it."""
    try:
        found = SUDO.lstat()
        if not (stat.S_ISREG(found.st_mode) and found.st_mode & stat.S_ISUID and found.st_uid == 0):
            return False
        with SUDO.open("rb") as file:
            return file.read(2) not in {b"#!", b""}
    except FileNotFoundError:
        return False
