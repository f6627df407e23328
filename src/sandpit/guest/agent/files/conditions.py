"""What a download's headers ask for: encodings, conditions, ranges (RFC 9110, sections 12.5.3, 13 and 14)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from sandpit.guest.agent.files.error import FileError

if TYPE_CHECKING:
    from starlette.datastructures import Headers

_RANGE = re.compile(r"bytes=\s*(\d{0,18})\s*-\s*(\d{0,18})\s*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Range:
    """Bytes `start` to before `stop`."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Accepted:
    """Which content codings a client takes."""

    identity: bool
    gzip: bool
    gzip_only: bool
    """gzip is the only coding it names."""


def accepts(header: str | None) -> Accepted:
    """Read `Accept-Encoding`."""
    if header is None or not header.strip():
        return Accepted(identity=True, gzip=False, gzip_only=False)
    weights: dict[str, float] = {}
    for item in header.lower().split(","):
        coding, _, parameters = item.partition(";")
        weights[coding.strip()] = _weight(parameters)
    rest = weights.get("*")
    gzip = weights.get("gzip", 0.0) > 0
    identity = weights.get("identity", 1.0 if rest is None else rest) > 0
    named = {coding for coding, weight in weights.items() if weight > 0} - {"gzip"}
    return Accepted(identity, gzip, gzip_only=gzip and not named)


def precondition_failed(headers: Headers, etag: str, modified: int) -> bool:
    """Whether `If-Match` or `If-Unmodified-Since` forbids the answer."""
    match = headers.get("if-match")
    if match is not None:
        return not _lists(match, etag)
    since = _date(headers.get("if-unmodified-since"))
    return since is not None and modified > since


def not_modified(headers: Headers, etag: str, modified: int) -> bool:
    """Whether the client has this file already."""
    none_match = headers.get("if-none-match")
    if none_match is not None:
        return _lists(none_match.replace("W/", ""), etag)
    since = _date(headers.get("if-modified-since"))
    return since is not None and modified <= since


def wanted_range(headers: Headers, size: int, etag: str, modified: int) -> Range | None:
    """The part that is asked for; None means all of it, also for what we do not serve (several ranges, other units).

    Raises: FileError 416 for a range outside of the file.
    """
    header = headers.get("range")
    condition = headers.get("if-range")
    if header is None or (condition is not None and condition != etag and _date(condition) != modified):
        return None
    match = _RANGE.fullmatch(header)
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        start, stop = max(size - int(last), 0), size
    else:
        start, stop = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None
    if start >= stop:
        raise FileError(416, f"the file has {size} bytes", ((b"content-range", b"bytes */%d" % size),))
    return Range(start, stop)


def _weight(parameters: str) -> float:
    name, _, value = parameters.partition("=")
    if name.strip() != "q":
        return 1.0
    try:
        return float(value)
    except ValueError:
        return 1.0


def _lists(header: str, etag: str) -> bool:
    return header.strip() == "*" or etag in (item.strip() for item in header.split(","))


def _date(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return int(parsedate_to_datetime(text).timestamp())
    except (ValueError, TypeError, OverflowError):
        return None
