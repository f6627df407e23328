"""Bodies of requests and what is wrong with them (code-interpreter 2.4)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sandpit.guest.interpreter.environment import is_variable

if TYPE_CHECKING:
    from collections.abc import Mapping


class InvalidBodyError(Exception):
    """The body does not have the right form; `details` is the answer's `detail`."""

    def __init__(self, kind: str, field: str | None, message: str, given: object) -> None:
        super().__init__(message)
        location = ["body"] if field is None else ["body", field]
        self.details = [{"type": kind, "loc": location, "msg": message, "input": given}]


@dataclass(frozen=True, slots=True)
class ExecutionBody:
    """Body of POST /execute."""

    code: str
    context_id: str | None
    language: str | None
    env_vars: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ContextBody:
    """Body of POST /contexts."""

    language: str | None
    cwd: str | None


def parse_execution(body: bytes) -> ExecutionBody:
    """Raises InvalidBodyError."""
    data = _object(body)
    if "code" not in data:
        raise InvalidBodyError("missing", "code", "Field required", data)
    if not isinstance(data["code"], str):
        raise InvalidBodyError("string_type", "code", "Input should be a valid string", data["code"])
    return ExecutionBody(
        data["code"], _optional_string(data, "context_id"), _optional_string(data, "language"), _variables(data)
    )


def parse_context(body: bytes) -> ContextBody:
    """Raises InvalidBodyError."""
    data = _object(body)
    return ContextBody(_optional_string(data, "language"), _optional_string(data, "cwd"))


def _object(body: bytes) -> Mapping[str, Any]:
    if not body:
        raise InvalidBodyError("missing", None, "Field required", None)
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as problem:
        raise InvalidBodyError("json_invalid", None, f"JSON decode error: {problem}", {}) from problem
    if not isinstance(data, dict):
        raise InvalidBodyError("model_attributes_type", None, "Input should be a valid dictionary", data)
    return data


def _optional_string(data: Mapping[str, Any], field: str) -> str | None:
    value = data.get(field)
    if value is None or isinstance(value, str):
        return value
    raise InvalidBodyError("string_type", field, "Input should be a valid string", value)


def _variables(data: Mapping[str, Any]) -> Mapping[str, str]:
    value = data.get("env_vars")
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidBodyError("dict_type", "env_vars", "Input should be a valid dictionary", value)
    for name, text in value.items():
        if not isinstance(text, str):
            raise InvalidBodyError("string_type", "env_vars", f"The value of {name!r} should be a valid string", text)
        if not is_variable(name, text):
            message = f"{name!r} cannot be an environment variable: no '=' in the name, no NUL, no lone surrogates"
            raise InvalidBodyError("value_error", "env_vars", message, name)
    return value
