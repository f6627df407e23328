"""Failures that a user can do something about."""

from __future__ import annotations


class CliError(Exception):
    """What happened and why, and what to do about it. `status` is the process's exit status."""

    def __init__(self, message: str, hint: str = "", *, status: int = 1) -> None:
        """`hint` is one instruction."""
        super().__init__(f"error: {message}" + (f"\n hint: {hint}" if hint else ""))
        self.message = message
        self.status = status
        self.code = 0
        """The HTTP status of a server's refusal."""
