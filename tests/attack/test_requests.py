"""A hostile tenant's requests: made from the API's own description, and by hand.

Every answer is a documented one in the protocol's form, none is a defect of the server's (500), and nobody else waits meanwhile.

`SANDPIT_FUZZ_EXAMPLES` is how many requests of each operation are made (8), `SANDPIT_FUZZ_SEED` which ones.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis.core import NotSet
from schemathesis.core.result import Ok
from tests import leaks
from tests.live import Live

from sandpit.api import openapi
from sandpit.api.app import ROUTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

EXAMPLES = int(os.environ.get("SANDPIT_FUZZ_EXAMPLES", "8"))
SEED = int(os.environ.get("SANDPIT_FUZZ_SEED", "12"))
ANSWERED_SECONDS = 10.0
"""Longest time that /health may take: to find a loop that stands still, not to measure."""
DOCUMENT = openapi.document(ROUTES)


def operations() -> Iterator[Any]:
    """All that the document describes; it must be valid."""
    for result in schemathesis.openapi.from_dict(DOCUMENT).get_all_operations():
        assert isinstance(result, Ok), result.err()
        yield result.ok()


OPERATIONS = sorted(operations(), key=lambda operation: operation.path.endswith("/timeout"))
"""The last one ends the sandbox."""


@pytest.fixture(scope="module")
def server(built_images: None) -> Iterator[Live]:
    """A server with room for few sandboxes: whatever requests manage to start is crun's, and soon refused."""
    live = Live({"SANDPIT_RUNTIME": "crun", "SANDPIT_POOL__SIZE": "0", "SANDPIT_LIMITS__MAX_SANDBOXES": "2"})
    leaks.kept.add(live.name)
    live.start()
    yield live
    live.stop()
    live.remove()


@contextmanager
def others_are_served(server: Live) -> Iterator[None]:
    """Ask for /health all the time; the longest time that it took must be none in which the server stood still."""
    done, worst = threading.Event(), [0.0]

    def ask() -> None:
        with httpx.Client(base_url=server.api_url, trust_env=False, timeout=60) as client:
            while not done.is_set():
                started = time.monotonic()
                assert client.get("/health").status_code == 200
                worst[0] = max(worst[0], time.monotonic() - started)
                time.sleep(0.05)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    assert worst[0] < ANSWERED_SECONDS, f"/health took {worst[0]:.1f} s"


def check(answer: httpx.Response, statuses: set[int]) -> None:
    """A documented status; errors in the protocol's form, and short."""
    told = f"{answer.request.method} {answer.request.url!s:.300}: {answer.status_code} {answer.text[:500]}"
    assert answer.status_code in statuses, told
    assert answer.status_code != 500, told
    if answer.status_code >= 400 and answer.request.method != "HEAD":
        assert answer.headers["content-type"] == "application/json", told
        body = answer.json()
        assert body["code"] == answer.status_code, told
        assert 0 < len(body["message"]) < 1200, told
    if answer.status_code == 204:
        assert not answer.content, told


def profile(examples: int) -> settings:
    return settings(
        max_examples=examples, deadline=None, database=None, phases=[Phase.generate], print_blob=False,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


def strategies(operation: Any) -> list[Any]:
    """Requests that fit the description, and ones that do not."""
    modes = [schemathesis.GenerationMode.POSITIVE]
    if operation.body or operation.query:
        modes.append(schemathesis.GenerationMode.NEGATIVE)
    return [operation.as_strategy(generation_mode=mode) for mode in modes]


@dataclass
class Things:
    """What requests may find: theirs half of the time, so that they get beyond "not found"."""

    sandbox: str
    template: str
    key: str
    turn: Iterator[int] = field(default_factory=itertools.count)

    def instead(self, case: Any, name: str, value: str) -> str:
        """What a path parameter of a request is to be."""
        if name == "build" or case.path.endswith(("/pause", "/fork", "/snapshots")) or case.method == "DELETE":
            return value
        if next(self.turn) % 2:
            return value
        if "/sandboxes/" in case.path:
            return self.sandbox
        return self.key if "/api-keys/" in case.path else self.template


@pytest.fixture
def things(server: Live) -> Iterator[Things]:
    """A sandbox, a template that is not built yet, a key."""
    sandbox = server.api.post("/v2/sandboxes", json={"templateID": "base", "timeout": 3600}).json()["sandboxID"]
    template = server.api.post("/v3/templates", json={"name": "fuzz", "cpuCount": 1, "memoryMB": 256}).json()[
        "templateID"
    ]
    key = server.api.post("/api-keys", json={"name": "fuzz"}).json()["id"]
    yield Things(sandbox, template, key)
    for item in server.api.get("/v2/sandboxes").json():
        server.api.delete(f"/sandboxes/{item['sandboxID']}").raise_for_status()


@pytest.mark.timeout(240)
def test_requests_made_from_the_description(server: Live, things: Things) -> None:
    seen: set[tuple[str, str]] = set()

    def send(case: Any) -> None:
        answer = request(server, case, things)
        if answer is not None:
            check(answer, {int(status) for status in case.operation.definition.raw["responses"]} | {404, 405})
            if answer.is_success:
                seen.add((case.method, case.path))

    with others_are_served(server):
        for operation in OPERATIONS:
            for strategy in strategies(operation):
                fuzz(strategy, send, examples_of(operation))
    # The requests must get somewhere, or they prove nothing.
    assert len(seen) >= 20, seen


def examples_of(operation: Any) -> int:
    """Two are enough for what is never there, and for what takes nothing."""
    takes = operation.body or operation.query or operation.path_parameters
    missing = "501" in operation.definition.raw["responses"]
    return EXAMPLES if takes and not missing else 2


def fuzz(strategy: Any, act: Callable[[Any], None], examples: int = EXAMPLES) -> None:
    @seed(SEED)
    @profile(examples)
    @given(strategy)
    def run(case: Any) -> None:
        act(case)

    run()


def request(server: Live, case: Any, things: Things) -> httpx.Response | None:
    """Send it; None for what no client could."""
    body = None if isinstance(case.body, NotSet) else case.body
    if case.path.endswith("/sandboxes") and isinstance(body, dict) and next(things.turn) % 2:
        body = {**body, "templateID": "base", "timeout": 60}
    path = case.path
    for name, value in (case.path_parameters or {}).items():
        path = path.replace(f"{{{name}}}", quote(things.instead(case, name, str(value)), safe=""))
    try:
        made = server.api.build_request(case.method, path, params=case.query or None, json=body)
    except (ValueError, TypeError, httpx.InvalidURL):
        return None
    return server.api.send(made)


NASTY = (
    "", "0", "-1", "99999999999999999999", "1e9", "NaN", "%00", "%ff", "%ED%A0%80", "%u0000", "%", "%%%", "\xff", "+", ";", "=",
    "0001-01-01T00:00:00%2B23:59", "9999-12-31T23:59:59-23:59", "2026-02-30T00:00:00Z", "2026-W01-1T00:00:00Z", "_" * 40,
    "MDAwMS0wMS0wMVQwMDowMDowMCswMDowMF9feA", "a%3Db%26c", "a%3Db%3Dc", "%2525%2525=", "running,paused", "default", "base:default",
)  # fmt: skip
NAMES = sorted({param.name for route in ROUTES for param in route.query})
PATHS = sorted({route.path for route in ROUTES if route.method == "GET"})
HEADERS = (
    "x-api-key",
    "authorization",
    "idempotency-key",
    "package_version",
    "publisher",
    "content-type",
    "content-length",
    "origin",
)
text = st.one_of(
    st.sampled_from(NASTY),
    st.text(st.characters(min_codepoint=33, max_codepoint=255, exclude_characters="#\x7f\xa0\x85"), max_size=60),
)
queries = st.lists(st.tuples(st.sampled_from(NAMES), text), max_size=6).map(
    lambda pairs: "&".join(f"{k}={v}" for k, v in pairs)
)
paths = st.tuples(st.sampled_from(PATHS), text).map(lambda pair: re.sub(r"\{\w+:segment\}", lambda _: pair[1], pair[0]))
fields = st.lists(st.tuples(st.sampled_from(HEADERS), text), max_size=3)
methods = st.sampled_from(("GET", "GET", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "get"))


def exchange(url: str, method: str, target: str, headers: Sequence[tuple[str, str]]) -> tuple[int, bytes, bytes]:
    """Status, head and body of an answer to bytes sent as they are."""
    address = httpx.URL(url)
    lines = [f"{method} {target} HTTP/1.1", "Host: api.e2b.localhost", "Connection: close"]
    head = "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers), "", ""]).encode("latin-1")
    with socket.create_connection((address.host, address.port or 80), timeout=30) as client:
        client.sendall(head)
        client.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1]) if head else 0, head.lower(), body


@pytest.mark.timeout(120)
def test_any_query_string_header_and_path(server: Live) -> None:
    """Through the API's own port, and through the edge."""

    def send(sent: tuple[str, str, str, list[tuple[str, str]], bool]) -> None:
        method, path, query, headers, by_edge = sent
        keyed = headers if any(name == "x-api-key" for name, _ in headers) else [*headers, ("x-api-key", server.key)]
        url = server.edge_url if by_edge else server.api_url
        status, head, body = exchange(url, method, f"{path}?{query}" if query else path, keyed)
        told = f"{method} {path}?{query} {headers}: {status} {head!r} {body[:300]!r}"
        # 0: a body was promised and the connection ended; nobody is left to be answered.
        assert status in {0, 200, 201, 204, 400, 401, 403, 404, 405, 413, 431, 501}, told
        if status >= 400 and method != "HEAD":
            assert b"content-type: application/json" in head, told
            assert json.loads(body)["code"] == status, told
            assert len(body) < 3000, told

    with others_are_served(server):
        fuzz(st.tuples(methods, paths, queries, fields, st.booleans()), send, EXAMPLES * 50)


def test_fifteen_hundred_filters_and_sixty_thousand_rules(server: Live, things: Things) -> None:
    """Each of these stopped everybody for ten seconds and more."""
    pairs = "&".join(f"k{number}=v" for number in range(1500))
    rules = [f"{1 + number // 65025}.{number // 255 % 255}.{number % 255}.7" for number in range(60_000)]
    network = f"/sandboxes/{things.sandbox}/network"
    with others_are_served(server):
        for path in ("/v2/sandboxes", "/sandboxes"):
            check(server.api.get(path, params={"metadata": pairs}), {400})
        for field_name in ("allowOut", "denyOut"):
            check(server.api.put(network, json={field_name: rules}), {400})
            check(server.api.post("/v2/sandboxes", json={"templateID": "base", "network": {field_name: rules}}), {400})
        # As many as there may be are taken.
        check(server.api.put(network, json={"allowOut": rules[:1000], "denyOut": ["0.0.0.0/0", *rules[1:1000]]}), {204})
