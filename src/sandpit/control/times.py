"""Points in time as the API writes and reads them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sandpit.control.errors import InvalidRequestError


def rfc3339(when: datetime) -> str:
    """UTC with six fractional digits and `Z`, so that equal times are equal texts."""
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def utc(when: datetime) -> datetime:
    """An aware time as UTC. Raises: ValueError: at the edge of the calendar, where the other time zone has no such time."""
    try:
        return when.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"{when.isoformat()} is not in the calendar of UTC") from error


def from_unix(seconds: float) -> datetime:
    """Raises: InvalidRequestError (not a time that a calendar knows)."""
    try:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    except OverflowError as error:
        raise InvalidRequestError(f"{seconds} is not a Unix time") from error
