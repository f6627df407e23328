"""What can go wrong, as one family of exceptions: catch `SandboxException` to catch all of it.

The names are those of the 2024 Python SDK, and its successors' for what 2024 did not have. Each message says what
happened and why; `hint` says what to do next, where there is something to do, and is part of the text.
"""

from __future__ import annotations


class SandboxException(Exception):
    """Something about a sandbox failed. `message`: what and why; `hint`: what to do, or empty."""

    status: int | None = None
    """The HTTP status of the server's answer, where it was one of the API."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message, self.hint = message, hint

    def __str__(self) -> str:
        return f"{self.message}\n hint: {self.hint}" if self.hint else self.message


class AuthenticationException(SandboxException):
    """The API key is missing or refused, or the sandbox refused its token."""


class InvalidArgumentException(SandboxException, ValueError):
    """The server refused a value that was given."""


class TimeoutException(SandboxException, TimeoutError):
    """An operation took longer than its `timeout`. It may still have its effect."""


class RateLimitException(SandboxException):
    """A limit of the team or of the server is reached: too many sandboxes, connections or requests."""


class ServerUnreachableException(SandboxException):
    """No connection to the server, or it broke off."""


class NotFoundException(SandboxException):
    """What was named does not exist (any more)."""


class SandboxNotFoundException(NotFoundException):
    """The sandbox was killed, reached the end of its life, or never was this team's."""


class SandboxNotOpenException(SandboxException):
    """The object was closed, or not opened yet."""


class RpcException(SandboxException):
    """The sandbox's daemon answered with an error that has no exception of its own. `code`: its name for it."""

    def __init__(self, message: str, hint: str = "", code: str = "unknown") -> None:
        super().__init__(message, hint)
        self.code = code


class FilesystemException(SandboxException):
    """A file operation failed."""


class FileNotFoundException(FilesystemException, NotFoundException):
    """There is no such file or directory in the sandbox."""


class NotEnoughSpaceException(FilesystemException):
    """The sandbox's disk is full."""


class ProcessException(SandboxException):
    """A process could not be started, reached or awaited."""


class CurrentWorkingDirectoryDoesntExistException(ProcessException):
    """The `cwd` of a process does not exist."""


class CommandExitException(ProcessException):
    """`commands.run`: the command ended with another exit code than 0."""

    def __init__(self, command: str, exit_code: int, stdout: str, stderr: str, error: str) -> None:
        end = stderr.strip().splitlines()[-1:] or [error or "nothing on standard error"]
        super().__init__(f"the command ended with exit code {exit_code}: {command}: {end[0]}")
        self.exit_code, self.stdout, self.stderr, self.error = exit_code, stdout, stderr, error


class TerminalException(SandboxException):
    """A terminal could not be started or reached."""


class KernelException(SandboxException):
    """A kernel could not be created, found, restarted or shut down, or an execution could not be run."""
