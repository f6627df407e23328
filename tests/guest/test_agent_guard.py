"""Tokens, control calls, relay and plain HTTP (current-protocol 4.7 and 7, architecture)."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from sandpit.guest.agent.control.secrets import received_keys
from sandpit.node.guests.control_secret import HEADER


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


CONTROL = [
    ("POST", "/init"), ("POST", "/freeze"), ("POST", "/unfreeze"), ("GET", "/disk"), ("GET", "/changes"), ("POST", "/changes"),
    ("GET", "/journal?after=0"), ("POST", "/memory?killed=7"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), CONTROL)
def test_control_calls_need_the_secret(agent: Any, method: str, path: str) -> None:
    del agent.http.headers[HEADER]
    secret = agent.secret
    for values in (
        [],
        [""],
        ["0" * 64],
        [secret.relay],
        [secret.current[:-1]],
        [secret.current] * 2,
        [secret.current, "0" * 64],
    ):
        answer = agent.http.request(method, path, headers=[(HEADER, value) for value in values], content=b"{}")
        assert (answer.status_code, answer.json()) == (404, {"code": 404, "message": "not found"})
    nowhere = agent.http.get("/nowhere")
    assert nowhere.status_code == 404


def test_init_replaces_the_secret(agent: Any) -> None:
    secret = agent.secret
    before, relay_before = secret.current, secret.relay
    assert agent.http.post("/init", json={"controlKeys": secret.offer()}).status_code == 204
    secret.accepted()
    assert agent.http.post("/unfreeze").status_code == 404
    agent.http.headers[HEADER] = secret.current
    assert agent.http.post("/unfreeze").status_code == 204
    assert before != secret.current
    for relay, answered in ((relay_before, b""), (secret.relay, b"-")):
        with socket.create_connection(("127.0.0.1", agent.relay_port)) as client, contextlib.suppress(ConnectionError):
            client.sendall(f"1 {relay}\n".encode())
            assert _read_all(client) == answered


@pytest.mark.parametrize(
    "keys", [None, {}, [], {"control": "0" * 64}, {"control": "0" * 63, "relay": "0" * 64}, {"control": 1, "relay": 2}]
)
def test_a_bad_successor_changes_nothing(agent: Any, keys: object) -> None:
    assert agent.http.post("/init", json={"controlKeys": keys, "accessToken": "taken"}).status_code == 400
    assert agent.http.post("/unfreeze").status_code == 204
    assert agent.http.get("/envs").status_code == 200


@pytest.mark.parametrize("given", ["", "\n", "0" * 200, "0" * 64 + "\n", "0" * 64 + " " + "g" * 64 + "\n"])
def test_an_agent_without_keys_refuses_all(given: str) -> None:
    reading, writing = os.pipe()
    os.write(writing, given.encode())
    os.close(writing)
    try:
        assert received_keys(reading) is None
    finally:
        os.close(reading)


def test_the_agent_knows_digests_alone(agent: Any) -> None:
    secret = agent.secret
    for path in ("environ", "cmdline"):
        content = Path(f"/proc/{agent.pid}/{path}").read_bytes()
        assert secret.current.encode() not in content
        assert secret.relay.encode() not in content
    shown = repr(secret)
    assert secret.current not in shown
    assert secret.current not in secret.handover().decode()


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
            client.sendall(f"{port} {agent.secret.relay}\nearly ".encode())
            client.sendall(b"x" * 300_000)
            client.shutdown(socket.SHUT_WR)
            assert _read_all(client) == b"+early " + b"x" * 300_000


@pytest.mark.parametrize("port", ["1", "65536"])
def test_the_relay_says_that_nothing_listens(agent: Any, port: str) -> None:
    with socket.create_connection(("127.0.0.1", agent.relay_port)) as client:
        client.sendall(f"{port} {agent.secret.relay}\n".encode())
        assert _read_all(client) == b"-"


@pytest.mark.parametrize(
    "line", ["{port}\n", "{port} \n", "{port} {control}\n", "{port} {wrong}\n", "0 {relay}\n", "080 {relay}\n", "+80 {relay}\n",
             "{port}  {relay}\n", "{port} {relay} \n", "\n", "1" * 72],
)  # fmt: skip
def test_the_relay_answers_nobody_without_its_secret(agent: Any, line: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        known = {"relay": agent.secret.relay, "control": agent.secret.current, "wrong": "0" * 64}
        with socket.create_connection(("127.0.0.1", agent.relay_port)) as client, contextlib.suppress(ConnectionError):
            client.sendall(line.format(port=port, **known).encode())
            assert _read_all(client) == b""


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
