"""What operations answer and callbacks get: plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from datetime import datetime

EnvVars = dict[str, str]


@dataclass(frozen=True, slots=True)
class ProcessMessage:
    """A line that a process wrote, or a piece of a cell's output."""

    line: str
    """Of a process: without its line end. Of a cell: the text as it was written."""
    timestamp: int
    """When it arrived (of a cell: when it was written), in nanoseconds since 1970."""
    error: bool = False
    """Whether it came from standard error."""

    def __str__(self) -> str:
        return self.line


@dataclass(slots=True)
class ProcessOutput:
    """All that a process wrote so far, and how it ended."""

    messages: list[ProcessMessage] = field(default_factory=list)
    """Lines of both streams, in the order of their arrival."""
    error: bool = False
    """Whether anything came from standard error."""
    exit_code: int | None = None
    """None while it runs; -1 when a signal ended it."""

    @property
    def stdout(self) -> str:
        """The lines of standard output, joined by line ends."""
        return "\n".join(message.line for message in self.messages if not message.error)

    @property
    def stderr(self) -> str:
        """The lines of standard error, joined by line ends."""
        return "\n".join(message.line for message in self.messages if message.error)


@dataclass(slots=True)
class TerminalOutput:
    """What a terminal has shown, control sequences included."""

    data: str = ""


@dataclass(frozen=True, slots=True)
class CommandResult:
    """What `commands.run` answers."""

    stdout: str
    stderr: str
    exit_code: int
    error: str = ""
    """How it ended, if not with exit code 0: `exit status 1`, `signal: killed`."""


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """A running process that a client, or the template's start command, started."""

    pid: int
    cmd: str
    args: list[str]
    envs: EnvVars
    cwd: str | None
    tag: str | None


@dataclass(frozen=True, slots=True)
class FileInfo:
    """An entry of a directory, as the 2024 SDK shows it."""

    name: str
    is_dir: bool


@dataclass(frozen=True, slots=True)
class EntryInfo:
    """A file, directory or link with what there is to know about it."""

    name: str
    path: str
    type: Literal["file", "dir", "symlink"]
    """What a link leads to, `symlink` when that does not exist."""
    size: int
    """Bytes."""
    mode: int
    permissions: str
    """As `ls -l` shows them."""
    owner: str
    group: str
    modified_time: datetime | None
    symlink_target: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)


class FilesystemOperation(StrEnum):
    """What happened to a file or directory."""

    Create = "Create"
    Write = "Write"
    Remove = "Remove"
    Rename = "Rename"
    Chmod = "Chmod"


@dataclass(frozen=True, slots=True)
class FilesystemEvent:
    """A change below a directory that is watched."""

    path: str
    """Absolute."""
    name: str
    """Relative to the watched directory."""
    operation: FilesystemOperation
    timestamp: int
    """When it arrived, in nanoseconds since 1970."""
    is_dir: bool
    """Whether it is a directory; False when it is gone."""


@dataclass(frozen=True, slots=True)
class OpenPort:
    """A TCP socket in the sandbox."""

    ip: str
    port: int
    state: str
    """`LISTEN`, `ESTABLISHED` and so on."""


@dataclass(frozen=True, slots=True)
class RunningSandbox:
    """A sandbox of the team, as `Sandbox.list()` and `get_info()` show it."""

    sandbox_id: str
    template_id: str
    alias: str | None
    """The template's name, if it has one."""
    metadata: dict[str, str] | None
    cpu_count: int
    memory_mb: int
    """MiB."""
    started_at: datetime
    end_at: datetime
    """When its life ends unless it is extended; of a paused sandbox: when it was paused."""
    state: Literal["running", "paused"]
    disk_mb: int
    """MiB."""


@dataclass(frozen=True, slots=True)
class SandboxMetrics:
    """What a sandbox used at one time. Sizes are bytes."""

    timestamp: datetime
    cpu_count: int
    cpu_used_pct: float
    """Of one processor: 100 is one of them in full use."""
    mem_used: int
    mem_total: int
    disk_used: int
    disk_total: int


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """A snapshot that is kept: `snapshot_id` is a template to create sandboxes from."""

    snapshot_id: str
    names: list[str]


class Kernel(str):
    """A kernel's id, which also says what the kernel is."""

    language: str
    cwd: str

    def __new__(cls, kernel_id: str, language: str = "", cwd: str = "") -> Kernel:
        kernel = super().__new__(cls, kernel_id)
        kernel.language, kernel.cwd = language, cwd
        return kernel

    @property
    def id(self) -> str:
        """The id alone."""
        return str(self)

    @property
    def name(self) -> str:
        """The kernel's name as Jupyter has it: `python3` for Python."""
        return "python3" if self.language == "python" else self.language
