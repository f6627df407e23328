"""Sandpit's SDK: sandboxes and code interpreters, blocking and for asyncio. docs/sdk.md is its guide.

Importing this package loads nothing: each name brings what it needs when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sandpit.sdk._async.code_interpreter import AsyncCodeInterpreter
    from sandpit.sdk._async.sandbox import AsyncSandbox
    from sandpit.sdk._sync.code_interpreter import CodeInterpreter
    from sandpit.sdk._sync.sandbox import Sandbox
    from sandpit.sdk.charts import Chart
    from sandpit.sdk.errors import (
        AuthenticationException,
        CommandExitException,
        CurrentWorkingDirectoryDoesntExistException,
        FileNotFoundException,
        FilesystemException,
        InvalidArgumentException,
        KernelException,
        NotEnoughSpaceException,
        NotFoundException,
        ProcessException,
        RateLimitException,
        RpcException,
        SandboxException,
        SandboxNotFoundException,
        SandboxNotOpenException,
        ServerUnreachableException,
        TerminalException,
        TimeoutException,
    )
    from sandpit.sdk.models import (
        CommandResult,
        EntryInfo,
        EnvVars,
        FileInfo,
        FilesystemEvent,
        FilesystemOperation,
        Kernel,
        OpenPort,
        ProcessInfo,
        ProcessMessage,
        ProcessOutput,
        RunningSandbox,
        SandboxMetrics,
        SnapshotInfo,
        TerminalOutput,
    )
    from sandpit.sdk.results import Error, Execution, Logs, Result, text_for_llm

_HOMES = {
    "_async.code_interpreter": ("AsyncCodeInterpreter",),
    "_async.sandbox": ("AsyncSandbox",),
    "_sync.code_interpreter": ("CodeInterpreter",),
    "_sync.sandbox": ("Sandbox",),
    "charts": ("Chart",),
    "errors": (
        "AuthenticationException",
        "CommandExitException",
        "CurrentWorkingDirectoryDoesntExistException",
        "FileNotFoundException",
        "FilesystemException",
        "InvalidArgumentException",
        "KernelException",
        "NotEnoughSpaceException",
        "NotFoundException",
        "ProcessException",
        "RateLimitException",
        "RpcException",
        "SandboxException",
        "SandboxNotFoundException",
        "SandboxNotOpenException",
        "ServerUnreachableException",
        "TerminalException",
        "TimeoutException",
    ),
    "models": (
        "CommandResult",
        "EntryInfo",
        "EnvVars",
        "FileInfo",
        "FilesystemEvent",
        "FilesystemOperation",
        "Kernel",
        "OpenPort",
        "ProcessInfo",
        "ProcessMessage",
        "ProcessOutput",
        "RunningSandbox",
        "SandboxMetrics",
        "SnapshotInfo",
        "TerminalOutput",
    ),
    "results": ("Error", "Execution", "Logs", "Result", "text_for_llm"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AsyncCodeInterpreter",
    "AsyncSandbox",
    "AuthenticationException",
    "Chart",
    "CodeInterpreter",
    "CommandExitException",
    "CommandResult",
    "CurrentWorkingDirectoryDoesntExistException",
    "EntryInfo",
    "EnvVars",
    "Error",
    "Execution",
    "FileInfo",
    "FileNotFoundException",
    "FilesystemEvent",
    "FilesystemException",
    "FilesystemOperation",
    "InvalidArgumentException",
    "Kernel",
    "KernelException",
    "Logs",
    "NotEnoughSpaceException",
    "NotFoundException",
    "OpenPort",
    "ProcessException",
    "ProcessInfo",
    "ProcessMessage",
    "ProcessOutput",
    "RateLimitException",
    "Result",
    "RpcException",
    "RunningSandbox",
    "Sandbox",
    "SandboxException",
    "SandboxMetrics",
    "SandboxNotFoundException",
    "SandboxNotOpenException",
    "ServerUnreachableException",
    "SnapshotInfo",
    "TerminalException",
    "TerminalOutput",
    "TimeoutException",
    "text_for_llm",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
