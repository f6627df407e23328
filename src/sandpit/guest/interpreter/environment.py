"""Who this sandbox is and which environment its kernels have, in each of its lives."""

from __future__ import annotations

import json
import logging
import os
import pwd
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_LOG = logging.getLogger(__name__)

_OURS = ("PYTHONHOME", "PYTHONEXECUTABLE", "PYTHONPLATLIBDIR", "__PYVENV_LAUNCHER__", "VIRTUAL_ENV")
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Instance:
    """One life of the sandbox: it changes when a snapshot is restored or the sandbox is forked."""

    instance: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)


class InstanceFile:
    """The file by which the agent says who this sandbox is.

    Looked at when a cell arrives, not watched: a stat costs microseconds and an idle sandbox nothing. The agent replaces the
    file before anyone is told that the sandbox is there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._instance = Instance()

    def read(self) -> Instance:
        """The current instance; the last good one if the file is missing or damaged."""
        try:
            status = self._path.stat()
        except OSError:
            return self._instance
        seen = (status.st_ino, status.st_mtime_ns, status.st_size)
        if seen != self._seen:
            self._seen = seen
            self._load()
        return self._instance

    def _load(self) -> None:
        try:
            data = json.loads(self._path.read_bytes())
            pairs = ((str(key), str(value)) for key, value in (data.get("envVars") or {}).items())
            given = {name: value for name, value in pairs if is_variable(name, value)}
            identity = {"E2B_SANDBOX": "true"}
            for name, key in (("E2B_SANDBOX_ID", "sandboxID"), ("E2B_TEMPLATE_ID", "templateID")):
                if data.get(key):
                    identity[name] = str(data[key])
            self._instance = Instance(str(data.get("instance", "")), identity | given)
        except (OSError, ValueError, AttributeError) as problem:
            _LOG.warning("cannot read %s: %s; kernels keep the environment they have", self._path, problem)


def is_variable(name: str, value: str) -> bool:
    """Whether a process can have this variable."""
    try:
        (name + value).encode()
    except UnicodeEncodeError:
        return False
    return bool(name) and "=" not in name and "\0" not in name + value


def base_environment() -> dict[str, str]:
    """The environment that kernels start from: the sandbox's, without what belongs to the service's own Python."""
    env = {key: value for key, value in os.environ.items() if key not in _OURS and not key.startswith("SANDPIT_")}
    account = pwd.getpwuid(os.getuid())
    env.setdefault("PATH", _DEFAULT_PATH)
    return env | {"HOME": account.pw_dir, "USER": account.pw_name, "LOGNAME": account.pw_name}


@dataclass(frozen=True, slots=True)
class Change:
    """What must happen in a kernel before the next cell."""

    assign: Mapping[str, str]
    remove: tuple[str, ...]
    reseed: bool = False

    def __bool__(self) -> bool:
        return bool(self.assign or self.remove or self.reseed)


def difference(applied: Mapping[str, str], wanted: Mapping[str, str], base: Mapping[str, str]) -> Change:
    """How to get from one set of variables on top of `base` to another; a removed one gets its value in `base` back."""
    assign = {name: value for name, value in wanted.items() if applied.get(name) != value}
    gone = [name for name in applied if name not in wanted]
    assign.update({name: base[name] for name in gone if name in base})
    return Change(assign, tuple(name for name in gone if name not in base))
