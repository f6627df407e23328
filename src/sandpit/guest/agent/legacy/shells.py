"""Shells as the clients of 2024 want them: whose, where, with which environment, and under which id."""

from __future__ import annotations

import os
import secrets
import string
import time
from typing import TYPE_CHECKING

from sandpit.guest.agent.accounts import Account, find_account, resolve_path
from sandpit.guest.agent.process.spawn import Command

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandpit.guest.agent.control.state import AgentState

_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ID_CHARACTERS = string.ascii_letters + string.digits


def new_id() -> str:
    """An id as the clients make them."""
    return "".join(secrets.choice(_ID_CHARACTERS) for _ in range(12))


def owner(state: AgentState) -> Account:
    """Whose processes and files it is all about (legacy-protocol 3.7). Raises: UnknownAccountError."""
    return find_account(state.default_user)


def command(
    state: AgentState,
    options: list[str],
    envs: Mapping[str, str],
    cwd: str,
    *,
    terminal: tuple[int, int] | None = None,
) -> Command:
    """A shell with these options (3.4, 3.6, 3.7). Raises: UnknownAccountError."""
    account = owner(state)
    env = {
        "PATH": os.environ.get("PATH", _DEFAULT_PATH),
        "HOME": account.home,
        "USER": account.name,
        "LOGNAME": account.name,
        **({} if terminal is None else {"TERM": "xterm"}),
        **state.env,
        **envs,
    }
    path = resolve_path(cwd, account, state.default_workdir)
    shell = "/bin/bash" if os.path.exists("/bin/bash") else "/bin/sh"  # noqa: PTH110 - on the way of every call
    return Command([shell, *options], env, path, account, stdin=True, terminal=terminal)


class Clock:
    """Unix time in nanoseconds that never runs backwards: clients sort by it."""

    def __init__(self) -> None:
        self._last = 0

    def now(self) -> int:
        self._last = max(time.time_ns(), self._last + 1)
        return self._last
