"""What can go wrong in the control plane. The API turns each class into one HTTP status (current-protocol 2.1)."""

from __future__ import annotations


class ControlError(Exception):
    """The message says what happened, why, and what to do; `error_code` is for machines (current-protocol 2)."""

    status = 500

    def __init__(self, message: str, *, error_code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.error_code = error_code


class InvalidRequestError(ControlError):
    status = 400


class UnauthorizedError(ControlError):
    status = 401


class ForbiddenError(ControlError):
    status = 403


class NotFoundError(ControlError):
    status = 404


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


class BusyError(ControlError):
    """No capacity now. Raised before any side effect, so the caller may repeat, in `retry_seconds` at the earliest."""

    status = 503

    def __init__(self, message: str, *, error_code: str | None = None, retry_seconds: int = 1) -> None:
        super().__init__(message, error_code=error_code)
        self.retry_seconds = retry_seconds
