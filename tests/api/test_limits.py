"""Limits of requests, generated from the API's own description: a field or parameter without one fails here."""

from __future__ import annotations

import base64
import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from tests.api.test_validation import check_error
from tests.machines import REPOSITORY

from sandpit.api import openapi
from sandpit.api.app import ROUTES
from sandpit.api.http import jsontext
from sandpit.control import limits
from sandpit.control.cursors import decode_cursor, encode_cursor
from sandpit.control.errors import ControlError, InvalidRequestError
from sandpit.control.times import utc
from sandpit.store.types import utc_now

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import httpx

DOCUMENT = openapi.document(ROUTES)
SCHEMAS: dict[str, Any] = DOCUMENT["components"]["schemas"]


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    return SCHEMAS[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def parts(schema: dict[str, Any], place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """A schema and all that it consists of, each with its place."""
    schema = resolved(schema)
    yield place, schema
    for part in schema.get("anyOf", []):
        yield from parts(part, place)
    for name, part in schema.get("properties", {}).items():
        yield from parts(part, f"{place}.{name}")
    for name in ("items", "additionalProperties", "propertyNames"):
        if isinstance(part := schema.get(name), dict) and part:
            # Names of a JSON object are texts, whether the schema says so or not.
            yield from parts({"type": "string", **part} if name == "propertyNames" else part, f"{place}.<{name}>")


def unlimited(schema: dict[str, Any]) -> bool:
    if "enum" in schema:
        return False
    needed = {"string": "maxLength", "array": "maxItems", "integer": "maximum", "number": "maximum"}
    kind = schema.get("type")
    if kind == "object":
        return "properties" not in schema and "maxProperties" not in schema
    return kind in needed and needed[kind] not in schema


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_field_and_parameter_has_a_limit(route: Any) -> None:
    operation = DOCUMENT["paths"][route.path.replace(":segment", "")][route.method.lower()]
    schemas = {parameter["name"]: parameter["schema"] for parameter in operation["parameters"]}
    if route.body is not None:
        schemas["body"] = operation["requestBody"]["content"]["application/json"]["schema"]
    found = [place for name, schema in schemas.items() for place, part in parts(schema, name) if unlimited(part)]
    assert not found


def test_the_walk_finds_what_has_no_limit() -> None:
    for schema in ({"type": "string"}, {"type": "array", "items": {}}, {"type": "object"}, {"type": "integer"}):
        assert [place for place, part in parts({"properties": {"x": schema}}, "body") if unlimited(part)] == ["body.x"]


def test_the_documentation_names_all_limits() -> None:
    text = (REPOSITORY / "docs/api.md").read_text()
    assert openapi.limit_table(ROUTES) in text, "paste what openapi.limit_table(ROUTES) returns into docs/api.md"
    numbers = {value for name, value in vars(limits).items() if name.startswith("MAX_")}
    for value in numbers - {limits.MAX_INTEGER, limits.MAX_REFUSED}:
        assert f"{value:,}" in text or (value % 1024 == 0 and f"{value // 1024} KiB" in text), value


def beyond(schema: dict[str, Any]) -> Iterator[Any]:
    """Values that are one more than a schema allows, in each respect."""
    schema = resolved(schema)
    for part in schema.get("anyOf", []):
        yield from beyond(part)
    kind = schema.get("type")
    if kind == "string" and "enum" not in schema:
        yield "x" * (schema["maxLength"] + 1)
    elif kind == "integer":
        yield schema["maximum"] + 1
    elif kind == "array":
        yield [0] * (schema["maxItems"] + 1)
        yield from ([value] for value in beyond(schema["items"]))
    elif kind == "object" and "properties" not in schema:
        yield {f"k{number}": "v" for number in range(schema["maxProperties"] + 1)}
        for value in beyond(part) if isinstance(part := schema["additionalProperties"], dict) else ():
            yield {"k": value}
        if "maxLength" in schema.get("propertyNames", {}):
            yield {"k" * (schema["propertyNames"]["maxLength"] + 1): "v"}
    for name, part in schema.get("properties", {}).items():
        yield from ({name: value} for value in beyond(part))


def least(schema: dict[str, Any]) -> Any:
    """A small value that a schema allows."""
    schema = resolved(schema)
    if "properties" in schema:
        return {name: least(schema["properties"][name]) for name in schema.get("required", [])}
    return {"string": "x", "integer": 1, "boolean": True, "array": ["x"]}[schema["type"]]


async def test_a_body_beyond_a_limit_is_refused(client: httpx.AsyncClient) -> None:
    for route in ROUTES:
        if route.body is None:
            continue
        schema = {"$ref": f"#/{route.body.__name__}"}
        path = route.path.replace("{id:segment}", "x").replace("{build:segment}", "x")
        given = [{**least(schema), **fields} for fields in beyond(schema)]
        for body in given:
            answer = await client.request(route.method, path, json=body)
            check_error(answer, 400)
            assert len(answer.content) < 2000, body
            assert "validation error" in answer.json()["message"] or "2^53" in answer.json()["message"]
        assert given or route.body.__name__ in ("TemplateUpdate", "PauseBody")


async def test_a_query_beyond_a_limit_is_refused(client: httpx.AsyncClient) -> None:
    for route in ROUTES:
        if not route.query:
            continue
        path = route.path.replace("{id:segment}", "i0").replace("{build:segment}", "x")
        for param in route.query:
            for value in ("x" * (param.length + 1), "x\0"):
                check_error(await client.request(route.method, path, params={param.name: value}), 400)
            if param.items > 1:
                many = {param.name: ["running"] * (param.items + 1)}
                check_error(await client.request(route.method, path, params=many), 400)
        check_error(await client.request(route.method, f"{path}?{'a&' * limits.MAX_QUERY_PARAMETERS}"), 400)
        check_error(await client.request(route.method, f"{path}?a={'a' * limits.MAX_QUERY_BYTES}"), 400)


async def test_what_holds_together(client: httpx.AsyncClient) -> None:
    """Limits of all members together, which a schema cannot say."""
    half = "v" * (limits.MAX_VARIABLE_VALUE - 1)
    for fields in (
        {"envVars": {f"V{number}": half for number in range(5)}},
        {"metadata": {f"k{number}": "v" * 16000 for number in range(9)}},
        {"mcp": {"server": "x" * limits.MAX_MCP_BYTES}},
    ):
        check_error(await client.post("/v2/sandboxes", json={"templateID": "base", **fields}), 400)
    most = {"envVars": {f"V{number}": "v" * 250 for number in range(limits.MAX_VARIABLES)}}
    pairs = {"metadata": {f"k{number}": "v" * 1000 for number in range(limits.MAX_METADATA_PAIRS)}}
    made = await client.post("/v2/sandboxes", json={"templateID": "base", **most, **pairs})
    assert made.status_code == 201, made.text


async def test_a_list_takes_as_many_pairs_as_a_sandbox_has(client: httpx.AsyncClient) -> None:
    pairs = {f"k{number}": "v" for number in range(limits.MAX_METADATA_PAIRS)}
    made = (await client.post("/v2/sandboxes", json={"templateID": "base", "metadata": pairs})).json()
    await client.post("/v2/sandboxes", json={"templateID": "base", "metadata": {"k0": "v", "other": "w"}})
    for path in ("/v2/sandboxes", "/sandboxes"):
        wanted = "&".join(f"{key}={value}" for key, value in pairs.items())
        assert [item["sandboxID"] for item in (await client.get(path, params={"metadata": wanted})).json()] == [
            made["sandboxID"]
        ]
        assert len((await client.get(path, params={"metadata": "k0=v"})).json()) == 2
        assert (await client.get(path, params={"metadata": "k0=w"})).json() == []
        check_error(await client.get(path, params={"metadata": wanted + "&more=v"}), 400)


SHAPES = {
    b'{"a": 1, "a": 2}': "twice",
    b'{"a": [{"b": 1, "b": 1}]}': "twice",
    b"[" * 33 + b"]" * 33: "deep",
    b"[" * 40_000: "deep",
    b'{"a":' * 40_000: "deep",
    b"[" + b"0," * limits.MAX_VALUES + b"0]": "values",
    b"[" + b"{}," * limits.MAX_VALUES + b"{}]": "values",
    b"[1e999]": "large",
    b"[NaN]": "NaN",
    b"[-Infinity]": "Infinity",
    b"9" * 5000: "digits",
    b"9007199254740993": "2^53",
    b'"\\ud800"': "surrogate",
    b'{"\\udfff": 1}': "surrogate",
    b'"\\u0000"': "NUL",
    b'{"\\u0000": 1}': "NUL",
    b"\xff": "UTF-8",
    b'"\xed\xa0\x80"': "UTF-8",
    b"\xef\xbb\xbf{}": "JSON",
    "[]".encode("utf-16"): "UTF-8",
    b"": "JSON",
    b"{": "JSON",
    b"[1] 2": "JSON",
}


@pytest.mark.parametrize("raw", SHAPES, ids=lambda raw: repr(raw[:20]))
def test_json_that_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidRequestError, match=SHAPES[raw].replace("^", r"\^")):
        jsontext.parse(raw)


def test_json_that_is_taken() -> None:
    values: list[Any] = [{"a": [1, 2.5, None, True, "\U0001f600é"]}, [], "x", 2**53, -(2**53), {}]
    for value in values:
        assert jsontext.parse(json.dumps(value)) == value
        assert jsontext.parse(json.dumps(value, ensure_ascii=False).encode()) == value
    assert jsontext.parse(b"[" * 32 + b"]" * 32)
    for mark in (",", "[", "{", '\\"', "\\\\"):
        many = f'["{mark * limits.MAX_VALUES}", 1]'
        assert jsontext.parse(many)[1] == 1, "in a string, these are characters"


def test_a_body_of_any_shape_is_read_in_time_that_grows_with_its_size() -> None:
    """A hang detector, not a measurement: the worst of these took minutes of a quadratic parser."""
    started = time.monotonic()
    for unit in (b"[],", b"{},", b"0,", b'"",', b"1e1,", b'{"a":0},', b'"\\ud83d\\ude00",', b"9" * 4000 + b","):
        with pytest.raises(InvalidRequestError):
            jsontext.parse(b"[" + unit * ((1 << 20) // len(unit)) + b"0]")
    assert time.monotonic() - started < 30


EDGES = ("0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "0000-01-01T00:00:00Z", "10000-01-01T00:00:00Z")


async def test_times_at_the_edge_of_the_calendar(client: httpx.AsyncClient) -> None:
    made = (await client.post("/v2/sandboxes", json={"templateID": "base"})).json()["sandboxID"]
    for edge in EDGES:
        bad = base64.urlsafe_b64encode(f"{edge}__x".encode()).decode()
        check_error(await client.get("/v2/sandboxes", params={"startedAfter": edge}), 400)
        for path in ("/v2/sandboxes", "/v2/templates", "/snapshots"):
            check_error(await client.get(path, params={"nextToken": bad}), 400)
    for value in ("999999999999999999", "-999999999999999999", "253402300800", "-62135596801"):
        check_error(await client.get(f"/sandboxes/{made}/metrics", params={"start": value}), 400)
        for path, name in (("/sandboxes", "start"), ("/v2/sandboxes", "cursor")):
            check_error(await client.get(f"{path}/{made}/logs", params={name: value + "000"[: 18 - len(value)]}), 400)
    for value in ("253402300799", "-62135596800", "0"):
        assert (await client.get(f"/sandboxes/{made}/metrics", params={"start": value})).status_code == 200
    for edge in ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"):
        assert (await client.get("/v2/sandboxes", params={"startedAfter": edge})).status_code == 200


def test_cursors_that_nobody_made() -> None:
    for text in (
        "",
        "x",
        "2026-01-01T00:00:00Z__",
        "2026-01-01T00:00:00Z__a\0",
        "2026-01-01T00:00:00__a",
        f"x__{'a' * 999}",
    ):
        token = base64.urlsafe_b64encode(text.encode()).decode()
        with pytest.raises(InvalidRequestError):
            decode_cursor(token, ascending=False)
    now = utc(utc_now())
    assert decode_cursor(encode_cursor(now, "a-1", ascending=True), ascending=True) == (now, "a-1")


def test_messages_are_short() -> None:
    error = ControlError("start " + "x" * 10_000_000 + " end")
    assert len(error.message) < limits.MAX_MESSAGE + 100
    assert len(str(error)) < limits.MAX_MESSAGE + 100
    assert error.message.startswith("start")
    assert error.message.endswith("end")


async def test_names_of_things_that_cannot_be(client: httpx.AsyncClient) -> None:
    """Whatever a path holds, its answer is an error of the protocol's form."""
    for route in ROUTES:
        for text in ("%00", "x" * 600, "%ED%A0%80", "%F0%9F%98%80", "..%2f..", "%20"):
            path = route.path
            for name in ("id", "build", "hash", "alias", "name"):
                path = path.replace(f"{{{name}:segment}}", text)
            if path == route.path:
                continue
            answer = await client.request(route.method, path, json={})
            assert answer.status_code in (200, 400, 404, 501), f"{route.method} {path}: {answer.text}"
            assert len(answer.content) < 3000


HOSTILE_TEXTS = (
    lambda n: '"' + '\\"' * n,
    lambda n: '"\\' * n,
    lambda n: '"' * (2 * n + 1),
    lambda n: '"' + "\\" * (2 * n + 1),
    lambda n: "[" * n + '"' + '\\"' * n,
)


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
def test_hostile_json_is_read_in_linear_time(text: Callable[[int], str]) -> None:
    """A quadratic reading of a quarter of a million characters would take minutes: the test's time limit is the bound."""
    with pytest.raises(InvalidRequestError):
        jsontext.parse("," * 60_000 + text(250_000))
