"""Query parameters of lists and logs (current-protocol 3.5, 3.12)."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import unquote_plus

from sandpit.api.http import params
from sandpit.control.errors import InvalidRequestError
from sandpit.control.lifecycle.queries import LEVELS, MAX_LOGS, STATES, LogFilter, SandboxFilter
from sandpit.control.limits import MAX_METADATA_KEY, MAX_METADATA_PAIRS, MAX_METADATA_VALUE, MAX_PAGE
from sandpit.control.times import from_unix, utc

if TYPE_CHECKING:
    from sandpit.api.http.routes import Call

SANDBOXES = (
    params.METADATA, params.STATE, params.ORDER, params.STARTED_AFTER, params.TEMPLATE, params.LIMIT, params.NEXT_TOKEN,
)  # fmt: skip
LOGS_V1 = (params.START_MS, params.LIMIT, params.LOGGERS)
LOGS_V2 = (params.CURSOR_MS, params.DIRECTION, params.LIMIT, params.LEVEL, params.SEARCH, params.LOGGERS)
TIMES = (params.START_SECONDS, params.END_SECONDS)


async def sandbox_filter(call: Call) -> SandboxFilter | None:
    """What a list was asked for; None when it names a template that does not exist. Raises: InvalidRequestError."""
    template_id = None
    if (template := call.query(params.TEMPLATE)) is not None:
        template_id = await call.control.services.templates.find_id(call.identity, template)
    limit = call.query_int(params.LIMIT)
    wanted = SandboxFilter(
        states=_states(call),
        metadata=metadata(call.query(params.METADATA)),
        ascending=_ascending(call.query(params.ORDER)),
        started_after=_time(call.query(params.STARTED_AFTER)),
        template_id=template_id,
        limit=MAX_PAGE if limit is None else limit,
        next_token=call.query(params.NEXT_TOKEN),
    )
    return None if template is not None and template_id is None else wanted


def metadata(text: str | None) -> dict[str, str]:
    """Pairs, percent-encoded one by one and then as a whole; the query value itself is decoded already."""
    if text is None:
        return {}
    pairs = {}
    try:
        given = unquote_plus(text, errors="strict").split("&")
        if len(given) > MAX_METADATA_PAIRS:
            raise InvalidRequestError(f"metadata: at most {MAX_METADATA_PAIRS} pairs, got {len(given)}")
        for pair in given:
            key, value = pair.split("=")
            pairs[unquote_plus(key, errors="strict")] = unquote_plus(value, errors="strict")
    except ValueError as error:
        raise InvalidRequestError("metadata must be 'key=value' pairs joined by '&', each percent-encoded") from error
    for key, value in pairs.items():
        if len(key) > MAX_METADATA_KEY or len(value) > MAX_METADATA_VALUE or "\0" in key or "\0" in value:
            raise InvalidRequestError("metadata: a key or value is longer than that of any sandbox, or holds a NUL")
    return pairs


def log_filter_v1(call: Call) -> LogFilter:
    """`start` is in Unix milliseconds, inclusive. Raises: InvalidRequestError."""
    return LogFilter(
        start=_milliseconds(call.query_int(params.START_MS)), limit=_log_limit(call), loggers=_loggers(call)
    )


def log_filter_v2(call: Call) -> LogFilter:
    """`cursor` is in Unix milliseconds: where to go on, forward or backward. Raises: InvalidRequestError."""
    backward = _choice("direction", call.query(params.DIRECTION), ("forward", "backward")) == "backward"
    cursor = _milliseconds(call.query_int(params.CURSOR_MS))
    return LogFilter(
        start=None if backward else cursor,
        end=cursor if backward else None,
        limit=_log_limit(call),
        newest_first=backward,
        level=_choice("level", call.query(params.LEVEL), LEVELS),
        search=call.query(params.SEARCH),
        loggers=_loggers(call),
    )


def time_range(call: Call) -> tuple[datetime | None, datetime | None]:
    """`start` and `end` in Unix seconds. Raises: InvalidRequestError."""
    start, end = call.query_int(params.START_SECONDS), call.query_int(params.END_SECONDS)
    if start is not None and end is not None and start > end:
        raise InvalidRequestError(f"start ({start}) must not be after end ({end})")
    return (None if start is None else from_unix(start)), (None if end is None else from_unix(end))


def _states(call: Call) -> tuple[str, ...]:
    states = tuple(dict.fromkeys(call.query_list(params.STATE)))
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


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        # A '+' that was not percent-encoded arrives as a space.
        when = datetime.fromisoformat(text.replace(" ", "+"))
        if when.tzinfo is None or "T" not in text.upper():
            raise ValueError(text)
        return utc(when)
    except ValueError as error:
        raise InvalidRequestError(
            f"{params.STARTED_AFTER.name} must be an RFC 3339 time with an offset, got '{text[:100]}'"
        ) from error


def _milliseconds(value: int | None) -> datetime | None:
    return None if value is None else from_unix(value / 1000)


def _loggers(call: Call) -> tuple[str, ...]:
    """Names with commas between them (ours: no client of E2B's sends it)."""
    given = call.query_list(params.LOGGERS)
    return tuple(dict.fromkeys(name.strip()[:32] for name in given if name.strip()))


def _log_limit(call: Call) -> int:
    limit = call.query_int(params.LIMIT)
    if limit is None:
        return MAX_LOGS
    if not 0 <= limit <= MAX_LOGS:
        raise InvalidRequestError(f"limit must be from 0 to {MAX_LOGS}, got {limit}")
    return limit
