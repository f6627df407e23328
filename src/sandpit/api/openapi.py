"""The API as an OpenAPI document, made from the route table and the bodies' types: `sandpit openapi` prints it.

Tests send requests made from it to a real server; docs/api.md has its limits as a table.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pydantic.json_schema import models_json_schema

from sandpit import __version__
from sandpit.api.http.params import MAX_QUERY_INTEGER
from sandpit.control import limits

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sandpit.api.http.params import Param
    from sandpit.api.http.routes import ApiRoute

Json = dict[str, Any]

ALWAYS = (400, 401, 403, 404, 413, 500)
"""Statuses of errors that every route may answer; 500 with the reason, when the node or the store fails."""
_BY_CLIENT_OF_2024 = "beside these, clients of 2024 get 500 and 403 where others get 404 and 429 (docs/legacy.md)"
_ERROR = {
    "type": "object",
    "required": ["code", "message"],
    "properties": {
        "code": {"type": "integer", "description": "the HTTP status"},
        "message": {"type": "string", "maxLength": limits.MAX_MESSAGE + 100},
        "error_code": {"type": "string"},
    },
    "additionalProperties": False,
}
_REFERENCE = "#/components/schemas/{model}"
_FORMS = {"text": {"type": "string"}, "integer": {"type": "integer"}, "time": {"type": "string", "format": "date-time"}}


def document(routes: Iterable[ApiRoute]) -> Json:
    """OpenAPI 3.1 of these routes."""
    table = tuple(routes)
    models = sorted({route.body for route in table if route.body is not None}, key=lambda model: model.__name__)
    _, schemas = models_json_schema([(model, "validation") for model in models], ref_template=_REFERENCE)
    paths: dict[str, Json] = {}
    for route in table:
        paths.setdefault(_path(route), {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Sandpit", "version": __version__, "description": _BY_CLIENT_OF_2024},
        "paths": paths,
        "components": {
            "schemas": {**schemas["$defs"], "Error": _ERROR},
            "securitySchemes": {"key": {"type": "apiKey", "in": "header", "name": "X-API-Key"}},
        },
        "security": [{"key": []}],
    }


def _path(route: ApiRoute) -> str:
    return route.path.replace(":segment}", "}")


def _operation(route: ApiRoute) -> Json:
    names = re.findall(r"\{(\w+)\}", _path(route))
    successes = (route.success,) if isinstance(route.success, int) else route.success
    answers: Json = {str(status): _success(status, route.method) for status in successes if status < 400}
    errors = sorted({*ALWAYS, *route.errors, *(status for status in successes if status >= 400)})
    answers |= {str(status): _error() for status in errors}
    operation: Json = {
        "operationId": f"{route.method.lower()} {_path(route)}",
        "parameters": [_path_parameter(name) for name in names] + [_parameter(param) for param in route.query],
        "responses": answers,
    }
    if route.body is not None:
        schema = {"$ref": _REFERENCE.format(model=route.body.__name__)}
        needed = any(field.is_required() for field in route.body.model_fields.values())
        operation["requestBody"] = {"required": needed, "content": {"application/json": {"schema": schema}}}
    return operation


def _success(status: int, method: str) -> Json:
    if status in (202, 204) and method != "POST":
        return {"description": "done"}
    return (
        {"description": "done", "content": {"application/json": {}}}
        if status in (200, 201)
        else {"description": "done"}
    )


def _error() -> Json:
    schema = {"$ref": _REFERENCE.format(model="Error")}
    return {"description": "refused", "content": {"application/json": {"schema": schema}}}


def _path_parameter(name: str) -> Json:
    schema = {"type": "string", "minLength": 1, "maxLength": limits.MAX_ID}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _parameter(param: Param) -> Json:
    schema: Json = dict(_FORMS[param.form])
    if param.form != "integer":
        schema["maxLength"] = param.length
    else:
        schema |= {"minimum": -MAX_QUERY_INTEGER, "maximum": MAX_QUERY_INTEGER}
    if param.choices:
        schema["enum"] = list(param.choices)
    if param.items > 1:
        schema = {"type": "array", "items": schema, "maxItems": param.items}
    return {"name": param.name, "in": "query", "description": param.about, "schema": schema}


def limit_table(routes: Iterable[ApiRoute]) -> str:
    """What docs/api.md says about the limits of fields and parameters: a row for each name and what it may hold."""
    found = document(routes)
    rows: dict[tuple[str, str], set[str]] = {}
    for name, schema in found["components"]["schemas"].items():
        for field, text in _fields(schema) if name != "Error" else ():
            rows.setdefault((f"`{field}`", text), set()).add(name.removesuffix("Body"))
    for operations in found["paths"].values():
        for parameter in (part for operation in operations.values() for part in operation["parameters"]):
            if parameter["in"] == "query":
                rows.setdefault((f"`{parameter['name']}`", describe(parameter["schema"])), set()).add("a query")
    lines = ["| Field or parameter | At most | In |", "|---|---|---|"]
    lines += [f"| {name} | {text} | {', '.join(sorted(places))} |" for (name, text), places in sorted(rows.items())]
    return "\n".join(lines)


def _fields(schema: Json) -> Iterator[tuple[str, str]]:
    for name, part in schema["properties"].items():
        if text := describe(part):
            yield name, text


def describe(schema: Json) -> str:
    """The limits of a JSON schema; empty for what needs none, such as a truth value."""
    parts = [describe(part) for part in schema.get("anyOf", [])]
    kind = schema.get("type")
    if "enum" in schema:
        parts.append(f"one of {', '.join(schema['enum'])}")
    elif kind == "string":
        parts.append(f"{schema['maxLength']:,} characters")
    elif kind == "integer":
        exact = schema["maximum"] in (limits.MAX_INTEGER, MAX_QUERY_INTEGER)
        parts.append("a whole number" if exact else f"from {schema['minimum']} to {schema['maximum']}")
    elif kind == "array":
        parts.append(f"{schema['maxItems']:,} items" + _each(schema["items"]))
    elif kind == "object" and "maxProperties" in schema:
        names = schema.get("propertyNames", {})
        longest = f" with names of {names['maxLength']:,} characters" if "maxLength" in names else ""
        values = schema.get("additionalProperties")
        parts.append(f"{schema['maxProperties']:,} pairs{longest}" + _each(values if isinstance(values, dict) else {}))
    return "; ".join(part for part in parts if part)


def _each(schema: Json) -> str:
    text = describe(schema)
    return f", each {text}" if text else ""
