"""Tokens, control calls, relay and plain HTTP (current-protocol 4.7 and 7, architecture)."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any

import pytest


def test_health_needs_no_token(agent: Any) -> None:
    agent.http.post("/init", json={"accessToken": "secret"})
    assert agent.http.get("/health").status_code == 204


@pytest.mark.parametrize("headers", [[], [("X-Access-Token", "wrong")], [("X-Access-Token", "secret")] * 2])
def test_all_else_needs_the_token(agent: Any, headers: list[tuple[str, str]]) -> None:
    agent.http.post("/init", json={"accessToken": "secret"})
    for path in ("/metrics", "/envs", "/nothing", "/process.Process/List"):
        answer = agent.http.get(path, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, 401)
    assert agent.http.get("/envs", headers={"X-Access-Token": "secret"}).status_code == 200


def test_init_replaces_everything(agent: Any) -> None:
    agent.http.post("/init", json={"templateID": "a", "envVars": {"X": "1"}, "accessToken": "secret"})
    assert agent.http.post("/init", json={"templateID": "b", "envVars": {"Y": "2"}}).status_code == 204
    env = {"E2B_SANDBOX": "true", "E2B_SANDBOX_ID": "", "E2B_TEMPLATE_ID": "b", "Y": "2"}
    assert agent.http.get("/envs").json() == env


@pytest.mark.parametrize("body", [b"", b"[]", b'{"envVars": {"A": 1}}', b'{"sandboxID": "../x"}'])
def test_bad_init_changes_nothing(agent: Any, body: bytes) -> None:
    assert agent.http.post("/init", content=body).status_code == 400
    assert agent.http.get("/envs").json() == {}


@pytest.mark.parametrize("path", ["/init", "/%69nit", "//init", "/./init", "/init/", "/journal?after=0"])
def test_control_calls_are_for_the_gateway(guarded_agent: Any, path: str) -> None:
    connection = socket.create_connection(("127.0.0.1", int(guarded_agent.url.rpartition(":")[2])))
    with connection:
        method = "GET" if "?" in path else "POST"
        connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{}}".encode())
        assert connection.recv(99).startswith(b"HTTP/1.1 404")


def test_preflight_needs_no_token(agent: Any) -> None:
    agent.http.post("/init", json={"accessToken": "secret"})
    asked = {"Origin": "http://a", "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-a"}
    answer = agent.http.options("/process.Process/List", headers=asked)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "*")


def test_metrics_fields(agent: Any) -> None:
    values = agent.http.get("/metrics").json()
    assert values["mem_total"] >= values["mem_used"] > 0
    assert values["cpu_count"] > 0
    assert values["disk_total"] >= values["disk_used"] >= 0


def test_relay_passes_bytes_both_ways(agent: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        threading.Thread(target=_echo_until_end, args=(server,), daemon=True).start()
        with socket.create_connection(("127.0.0.1", agent.relay_port)) as client:
            client.sendall(b"%d\nearly " % port)
            client.sendall(b"x" * 300_000)
            client.shutdown(socket.SHUT_WR)
            assert _read_all(client) == b"+early " + b"x" * 300_000


@pytest.mark.parametrize("line", [b"1\n", b"0\n", b"080\n", b"+80\n", b"65536\n", b"1234567", b"\n"])
def test_relay_refuses(agent: Any, line: bytes) -> None:
    with socket.create_connection(("127.0.0.1", agent.relay_port)) as client:
        client.sendall(line)
        assert _read_all(client) == b"-"


def test_relay_is_for_the_gateway(guarded_agent: Any) -> None:
    client = socket.create_connection(("127.0.0.1", guarded_agent.relay_port))
    with client, contextlib.suppress(ConnectionResetError):
        assert client.recv(1) == b""


def _echo_until_end(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        connection.sendall(_read_all(connection))


def _read_all(connection: socket.socket) -> bytes:
    chunks = []
    while chunk := connection.recv(65536):
        chunks.append(chunk)
    return b"".join(chunks)
