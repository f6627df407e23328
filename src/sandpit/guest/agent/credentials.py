"""Acting as another Linux user for a moment, on the calling thread only.

On Linux, credentials belong to a thread; it is the C library that spreads `setuid` over all of them. The plain system
calls do not, so one thread may act as a user while the others stay root. This is what makes spawning cheap: a child
that must change its own credentials needs fork, which copies the agent's page tables (40 ms in gVisor), while one that
inherits them needs only vfork (3 ms).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sandpit.guest.agent.accounts import Account

# setgroups, setresuid, setresgid of asm/unistd.h
_NUMBERS = {"x86_64": (116, 117, 119), "aarch64": (159, 147, 149), "riscv64": (159, 147, 149)}
_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def acting_as(account: Account) -> Iterator[None]:
    """Run the body, which must not await, with the account's user, group and supplementary groups.

    A process spawned in the body has these and no way back. Raises: OSError when the agent is not root.
    """
    if account.uid == os.geteuid():
        yield
        return
    own_groups = os.getgroups()
    try:
        _become(account.uid, account.gid, account.groups)
        yield
    finally:
        # The saved user id is still 0; if this fails, going on as a user would be wrong in every way.
        try:
            _become(0, 0, own_groups)
        except OSError:
            os.abort()


def _become(uid: int, gid: int, groups: Sequence[int]) -> None:
    try:
        setgroups, setresuid, setresgid = _NUMBERS[platform.machine()]
    except KeyError:
        raise OSError(f"no system call numbers for {platform.machine()}") from None
    array = (ctypes.c_uint32 * len(groups))(*groups)
    if os.geteuid() != 0:
        _call(setresuid, uid, uid, 0)  # first back to root: only root may set groups
    _call(setgroups, len(groups), array)
    _call(setresgid, gid, gid, 0)
    _call(setresuid, uid, uid, 0)


def _call(*arguments: object) -> None:
    if _libc.syscall(*arguments) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
