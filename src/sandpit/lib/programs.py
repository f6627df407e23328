"""Starting programs of this machine: the one place where Sandpit does it.

A program gets the environment that its caller names, never this process's: settings and keys of the server are in that, and what a
program is given its children have, down to the processes that face a sandbox's code (gVisor's gofer). It gets no descriptor but its three
standard ones either: Python opens all others close-on-exec, and closes them again here.

Imports nothing but the standard library: it also runs before anything is installed.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TypeAlias

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NETWORK = frozenset({
    "http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy", "ssl_cert_file", "ssl_cert_dir",
    "requests_ca_bundle", "curl_ca_bundle", "node_extra_ca_certs", "apt_config", "home",
})  # fmt: skip
_NETWORK_PREFIXES = ("uv_", "pip_", "npm_config_")

Stream: TypeAlias = "int | IO[bytes] | None"


def environment(**variables: str) -> dict[str, str]:
    """The least that programs expect: where others are, and a language; `variables` on top."""
    return {"PATH": SYSTEM_PATH, "LC_ALL": "C.UTF-8", **variables}


def network_environment(settings: Mapping[str, str] | None = None, **variables: str) -> dict[str, str]:
    """For programs that fetch packages: the least, and what `settings` (this process's) say of proxies, certificates and indexes.

    Addresses of indexes may have passwords in them. No program that a sandbox is behind gets this.
    """
    found = os.environ if settings is None else settings
    passed = {name: value for name, value in found.items() if _of_network(name.lower())}
    return environment(**passed | variables)


def _of_network(name: str) -> bool:
    return name in _NETWORK or name.startswith(_NETWORK_PREFIXES)


def search_path() -> str:
    """Where programs are looked for: a user's PATH often lacks the system directories."""
    return f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}"


def find(name: str) -> str | None:
    """A program's path, None if this machine does not have it."""
    return shutil.which(name, path=search_path())


async def start(
    *command: str,
    stdin: Stream = subprocess.DEVNULL,
    stdout: Stream = subprocess.DEVNULL,
    stderr: Stream = subprocess.DEVNULL,
    env: Mapping[str, str] | None = None,
    new_session: bool = False,
) -> asyncio.subprocess.Process:
    """Start a program, in the least environment if no other is given. Raises: OSError."""
    return await asyncio.create_subprocess_exec(
        *_resolved(command), stdin=stdin, stdout=stdout, stderr=stderr, env=environment() if env is None else env,
        start_new_session=new_session, close_fds=True,
    )  # fmt: skip


def call(
    *command: str,
    stdin: IO[bytes] | None = None,
    text: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | str | None = None,
    check: bool = False,
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, `text` or the file `stdin` being its input; what it prints is caught. Blocking.

    Raises: OSError, subprocess.TimeoutExpired after `timeout` seconds, subprocess.CalledProcessError if `check` says so.
    """
    given = {"input": text} if text is not None else {"stdin": subprocess.DEVNULL if stdin is None else stdin}
    return subprocess.run(
        _resolved(command), env=environment() if env is None else env, cwd=cwd, check=check, timeout=timeout,
        capture_output=True, text=True, close_fds=True, **given,
    )  # fmt: skip


def spawn(
    *command: str,
    stdout: Stream = subprocess.DEVNULL,
    stderr: Stream = subprocess.DEVNULL,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    new_session: bool = False,
) -> subprocess.Popen[bytes]:
    """Start a program that goes on by itself, without input. Raises: OSError."""
    return subprocess.Popen(
        _resolved(command), stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, cwd=cwd, close_fds=True,
        env=environment() if env is None else env, start_new_session=new_session,
    )  # fmt: skip


def _resolved(command: Sequence[str]) -> list[str]:
    """With the program's path, if it is found: a program may be where only this process's PATH leads."""
    return [find(command[0]) or command[0], *command[1:]]
