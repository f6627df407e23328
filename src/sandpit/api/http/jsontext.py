"""JSON of untrusted clients: read strictly, in time that grows with its size alone, and limited in shape (`control.limits`)."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from sandpit.control.errors import InvalidRequestError
from sandpit.control.limits import MAX_DEPTH, MAX_INTEGER, MAX_VALUES

_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
"""A string, or what begins like one and never ends: then nothing is left in which another could be looked for."""


def parse(raw: bytes | str) -> Any:
    """The value of a JSON text in UTF-8.

    Raises: InvalidRequestError: it is none, is too deep or holds too many values; it has a name twice in one object, NaN, a whole number
    beyond 2^53, a NUL character, or half of a surrogate pair: no two programs agree on what these mean, or no database takes them.
    """
    try:
        text = raw if isinstance(raw, str) else raw.decode()
        _check_number(text)
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise _too_deep() from None
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"the JSON is not in UTF-8, at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise InvalidRequestError(f"this is no JSON: {error.msg} at character {error.pos}") from None
    except ValueError:  # Python's own limit on the digits of a number
        raise InvalidRequestError("the JSON holds a number of too many digits") from None
    _check(value)
    return value


def _check_number(text: str) -> None:
    """Refuse too many values before they are made: half a million of small lists take half a second.

    Each value but the first stands behind a comma or the beginning of a list or object. Strings are taken out only of a text that may have
    too many of these.
    """
    marks = (",", "[", "{")
    if max(text.count(mark) for mark in marks) >= MAX_VALUES:
        outside = _STRING.sub("", text)
        if max(outside.count(mark) for mark in marks) >= MAX_VALUES:
            raise _too_many()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise InvalidRequestError("the JSON has a name twice in one object")
    return made


def _no_constant(name: str) -> NoReturn:
    raise InvalidRequestError(f"{name} is no JSON")


def _too_many() -> InvalidRequestError:
    return InvalidRequestError(f"the JSON holds more than {MAX_VALUES} values")


def _too_deep() -> InvalidRequestError:
    return InvalidRequestError(f"the JSON is nested more than {MAX_DEPTH} deep")


def _check(value: Any) -> None:
    """Level by level, so that depth costs no stack."""
    level, seen = [value], 0
    for depth in range(MAX_DEPTH + 1):
        below: list[Any] = []
        for item in level:
            if depth == MAX_DEPTH and isinstance(item, (dict, list)):
                raise _too_deep()
            if isinstance(item, dict):
                for name in item:
                    _check_text(name)
                below += item.values()
            elif isinstance(item, list):
                below += item
            else:
                _check_scalar(item)
        if not below:
            return
        level, seen = below, seen + len(below)
        if seen > MAX_VALUES:
            raise _too_many()


def _check_scalar(value: Any) -> None:
    if isinstance(value, str):
        _check_text(value)
    elif isinstance(value, int) and abs(value) > MAX_INTEGER:
        raise InvalidRequestError("the JSON holds a whole number beyond 2^53")
    elif isinstance(value, float) and value in (float("inf"), float("-inf")):
        raise InvalidRequestError("the JSON holds a number that is too large")


def _check_text(text: str) -> None:
    if "\0" in text:
        raise InvalidRequestError("the JSON holds a NUL character")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InvalidRequestError("the JSON holds half of a surrogate pair") from None
