"""Query parameters of lists and logs (current-protocol 3.5, 3.12)."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import unquote_plus

from sandpit.control.cursors import MAX_PAGE
from sandpit.control.errors import InvalidRequestError
from sandpit.control.queries import LEVELS, MAX_LOGS, STATES, LogFilter, SandboxFilter
from sandpit.control.times import from_unix

if TYPE_CHECKING:
    from sandpit.api.http import Call


_MAX_LOGGERS = 16


async def sandbox_filter(call: Call) -> SandboxFilter | None:
    """What a list was asked for; None when it names a template that does not exist. Raises: InvalidRequestError."""
    template_id = None
    if (template := call.query("template")) is not None:
        template_id = await call.control.services.templates.find_id(call.identity, template)
    limit = call.query_int("limit")
    wanted = SandboxFilter(
        states=_states(call),
        metadata=metadata(call.query("metadata")),
        ascending=_ascending(call.query("order")),
        started_after=_time("startedAfter", call.query("startedAfter")),
        template_id=template_id,
        limit=MAX_PAGE if limit is None else limit,
        next_token=call.query("nextToken"),
    )
    return None if template is not None and template_id is None else wanted


def metadata(text: str | None) -> dict[str, str]:
    """Pairs, percent-encoded one by one and then as a whole; the query value itself is decoded already."""
    if text is None:
        return {}
    pairs = {}
    try:
        for pair in unquote_plus(text, errors="strict").split("&"):
            key, value = pair.split("=")
            pairs[unquote_plus(key, errors="strict")] = unquote_plus(value, errors="strict")
    except ValueError as error:
        raise InvalidRequestError("metadata must be 'key=value' pairs joined by '&', each percent-encoded") from error
    return pairs


def log_filter_v1(call: Call) -> LogFilter:
    """`start` is in Unix milliseconds, inclusive. Raises: InvalidRequestError."""
    return LogFilter(start=_milliseconds(call.query_int("start")), limit=_log_limit(call), loggers=_loggers(call))


def log_filter_v2(call: Call) -> LogFilter:
    """`cursor` is in Unix milliseconds: where to go on, forward or backward. Raises: InvalidRequestError."""
    backward = _choice("direction", call.query("direction"), ("forward", "backward")) == "backward"
    cursor = _milliseconds(call.query_int("cursor"))
    return LogFilter(
        start=None if backward else cursor,
        end=cursor if backward else None,
        limit=_log_limit(call),
        newest_first=backward,
        level=_choice("level", call.query("level"), LEVELS),
        search=call.query("search"),
        loggers=_loggers(call),
    )


def time_range(call: Call) -> tuple[datetime | None, datetime | None]:
    """`start` and `end` in Unix seconds. Raises: InvalidRequestError."""
    start, end = call.query_int("start"), call.query_int("end")
    if start is not None and end is not None and start > end:
        raise InvalidRequestError(f"start ({start}) must not be after end ({end})")
    return (None if start is None else from_unix(start)), (None if end is None else from_unix(end))


def _states(call: Call) -> tuple[str, ...]:
    given = ",".join(call.request.query_params.getlist("state"))
    states = tuple(dict.fromkeys(part for part in given.split(",") if part))
    for state in states:
        _choice("state", state, STATES)
    return states or STATES


def _ascending(order: str | None) -> bool:
    return order is not None and _choice("order", order, ("asc", "desc")) == "asc"


def _choice(name: str, text: str | None, choices: tuple[str, ...]) -> str:
    """One of the choices, the first when absent."""
    if text is None:
        return choices[0]
    if text not in choices:
        raise InvalidRequestError(f"{name} must be one of {', '.join(choices)}, got '{text[:100]}'")
    return text


def _time(name: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        # A '+' that was not percent-encoded arrives as a space.
        when = datetime.fromisoformat(text.replace(" ", "+"))
        if when.tzinfo is None or "T" not in text.upper():
            raise ValueError(text)
    except ValueError as error:
        raise InvalidRequestError(f"{name} must be an RFC 3339 time with an offset, got '{text[:100]}'") from error
    return when


def _milliseconds(value: int | None) -> datetime | None:
    return None if value is None else from_unix(value / 1000)


def _loggers(call: Call) -> tuple[str, ...]:
    """Names with commas between them (ours: no client of E2B's sends it)."""
    given = (call.query("loggers") or "").split(",")
    return tuple(dict.fromkeys(name.strip()[:32] for name in given if name.strip()))[:_MAX_LOGGERS]


def _log_limit(call: Call) -> int:
    limit = call.query_int("limit")
    if limit is None:
        return MAX_LOGS
    if not 0 <= limit <= MAX_LOGS:
        raise InvalidRequestError(f"limit must be from 0 to {MAX_LOGS}, got {limit}")
    return limit
