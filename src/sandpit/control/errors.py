"""What can go wrong in the control plane. The API turns each class into one HTTP status (current-protocol 2.1)."""

from __future__ import annotations

from sandpit.control.limits import shortened


class ControlError(Exception):
    """The message says what happened, why, and what to do; `error_code` is for machines (current-protocol 2).

    A message is `MAX_MESSAGE` characters long at most: what a request holds is not sent back, or logged, by the megabyte.
    """

    status = 500

    def __init__(self, message: str, *, error_code: str | None = None) -> None:
        self.message = shortened(message)
        super().__init__(self.message)
        self.error_code = error_code


class InvalidRequestError(ControlError):
    status = 400


class UnauthorizedError(ControlError):
    status = 401


class ForbiddenError(ControlError):
    status = 403


class NotFoundError(ControlError):
    status = 404


class KilledError(NotFoundError):
    """A sandbox was killed while it was being changed: what was under way has come to nothing."""

    def __init__(self, sandbox_id: str) -> None:
        super().__init__(f"sandbox '{sandbox_id}' was killed while this was under way")


class ConflictError(ControlError):
    status = 409


class BodyTooLargeError(ControlError):
    status = 413


class IdempotencyMismatchError(ControlError):
    status = 422


class LimitReachedError(ControlError):
    """A team's limit. Raised before any side effect; repeating at once does not help."""

    status = 429


class SandboxFailedError(ControlError):
    """The node could not do it. Repeating may have side effects."""

    status = 500


class NotSupportedError(ControlError):
    """This server cannot do that (yet)."""

    status = 501


class DiskFullError(ControlError):
    """The server's disk has no room for this. Nothing was changed; it may be repeated when somebody has made room."""

    status = 507


class BusyError(ControlError):
    """No capacity now. Raised before any side effect, so the caller may repeat, in `retry_seconds` at the earliest."""

    status = 503

    def __init__(self, message: str, *, error_code: str | None = None, retry_seconds: int = 1) -> None:
        super().__init__(message, error_code=error_code)
        self.retry_seconds = retry_seconds
