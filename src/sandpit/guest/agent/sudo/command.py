"""What the real sudo gets to see when it is started for somebody else: its arguments and environment."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sandpit.guest.agent.accounts import Account

_WITH_VALUE = frozenset("CDghpRrtTuU")
_RUNS_NOTHING = frozenset("elvKV")
_LONG = {
    "askpass": "A", "background": "b", "bell": "B", "chdir": "D", "chroot": "R", "close-from": "C", "command-timeout": "T",
    "edit": "e", "group": "g", "help": "V", "host": "h", "list": "l", "login": "i", "no-update": "N", "non-interactive": "n",
    "other-user": "U", "preserve-env": "E", "preserve-groups": "P", "prompt": "p", "remove-timestamp": "K",
    "reset-timestamp": "k", "role": "r", "set-home": "H", "shell": "s", "stdin": "S", "type": "t", "user": "u",
    "validate": "v", "version": "V",
}  # fmt: skip
"""Long options and the letters that mean the same; any beginning of a name that fits no other does too (getopt_long(3))."""
_SECURE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
# What the C library itself drops in programs with set-user-ID (ld.so(8), "Secure-execution mode"), and what would run code.
_DANGEROUS = re.compile(
    r"(LD_.*|GLIBC_TUNABLES|GCONV_PATH|GETCONF_DIR|HOSTALIASES|LOCALDOMAIN|LOCPATH|MALLOC_.*|NIS_PATH|NLSPATH|RESOLV_HOST_CONF"
    r"|RES_OPTIONS|TMPDIR|TZDIR|PYTHON.*|PERL.*|BASH_ENV|ENV|SUDO_ASKPASS)"
)


def named_caller(argv: Sequence[str], caller: Account) -> list[str]:
    """The arguments, with SUDO_USER and its like set to the caller instead of root.

    They are set by env(1) in front of the command. A shell of its own (`-s`, `-i`) is replaced by a second one that has them:
    only dollar signs reach it unescaped (sudo(8)).
    """
    letters, place = read_arguments(argv)
    named = ["/usr/bin/env", f"SUDO_USER={caller.name}", f"SUDO_UID={caller.uid}", f"SUDO_GID={caller.gid}"]
    if letters & _RUNS_NOTHING:
        return list(argv)
    if place == len(argv):
        login = ["-l"] if "i" in letters else []
        return [*argv, "exec", *named, "$SHELL", *login] if letters & {"i", "s"} else list(argv)
    if shutil.which(argv[place], path=_SECURE_PATH) is None:
        return list(argv)  # nothing that sudo would find: it says so itself
    return [*argv[:place], *named, *argv[place:]]


def read_arguments(argv: Sequence[str]) -> tuple[frozenset[str], int]:
    """The options among sudo's arguments as letters, and where the command begins (sudo(8)): the end if there is none."""
    letters = {"e"} if argv[0] == "sudoedit" else set()
    index = 1
    while index < len(argv):
        argument = argv[index]
        if argument == "--":
            index += 1
            break
        if argument.startswith("--"):
            name, equals, _ = argument[2:].partition("=")
            group = _long_option(name)
            takes_next = not equals and group in _WITH_VALUE
        elif argument.startswith("-") and len(argument) > 1:
            group = _letters(argument)
            takes_next = group[-1] in _WITH_VALUE and len(group) == len(argument) - 1
        else:
            break
        letters |= set(group)
        index += 2 if takes_next else 1
    while index < len(argv) and _ASSIGNMENT.match(argv[index]):
        index += 1
    return frozenset(letters), min(index, len(argv))


def _long_option(name: str) -> str:
    """Its letter; V, which runs nothing, if sudo will not understand it."""
    meant = [name] if name in _LONG else [one for one in _LONG if one.startswith(name)]
    return _LONG[meant[0]] if len(meant) == 1 else "V"


def _letters(argument: str) -> str:
    """The options in a group like `-nu`, without an attached value."""
    for place, letter in enumerate(argument[1:], 1):
        if letter in _WITH_VALUE:
            return argument[1 : place + 1]
    return argument[1:]


def safe_environment(given: Mapping[str, str]) -> dict[str, str]:
    """A caller's variables without those that would change how programs of root's load and run."""
    return {name: value for name, value in given.items() if not _DANGEROUS.fullmatch(name)}
