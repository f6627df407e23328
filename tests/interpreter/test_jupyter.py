"""The Jupyter Server of 2024 in front of the contexts: what its clients need of it (legacy-protocol 5)."""

from __future__ import annotations

import json
import socket
import uuid
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from tests.interpreter.support import Interpreter
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from websockets.asyncio.client import ClientConnection


def ask(interpreter: Interpreter) -> bytes:
    """What the agent does when a client of 2024 comes."""
    with socket.socket(socket.AF_UNIX) as door:
        door.connect(str(interpreter.run_dir / "jupyter.sock"))
        return door.makefile("rb").readline()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Interpreter]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    interpreter = Interpreter(tmp_path_factory.mktemp("jupyter"), JUPYTER_PORT=str(port))
    interpreter.start()
    try:
        interpreter.jupyter = f"127.0.0.1:{port}"  # type: ignore[attr-defined]
        with pytest.raises(httpx.ConnectError):  # nobody asked for it yet
            httpx.get(f"http://127.0.0.1:{port}/api")
        assert [ask(interpreter), ask(interpreter)] == [b"open\n"] * 2
        yield interpreter
    finally:
        interpreter.stop()


@pytest.fixture
def rest(service: Interpreter) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://{service.jupyter}", timeout=60) as client:  # type: ignore[attr-defined]
        yield client


@asynccontextmanager
async def channels(service: Interpreter, kernel: str) -> AsyncIterator[ClientConnection]:
    async with connect(f"ws://{service.jupyter}/api/kernels/{kernel}/channels") as connection:  # type: ignore[attr-defined]
        yield connection


async def execute(connection: ClientConnection, code: str, *, end: bool = True) -> list[dict[str, Any]]:
    """The messages about one cell, as the clients send it."""
    header = {
        "msg_id": uuid.uuid4().hex,
        "username": "e2b",
        "session": "s",
        "msg_type": "execute_request",
        "version": "5.3",
    }
    content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
    await connection.send(json.dumps({"header": header, "parent_header": {}, "metadata": {}, "content": content}))
    messages: list[dict[str, Any]] = []
    while end and not (messages and messages[-1]["content"].get("execution_state") == "idle"):
        messages.append(json.loads(await connection.recv()))
        assert messages[-1]["parent_header"]["msg_id"] == header["msg_id"]
        assert messages[-1]["msg_type"] == messages[-1]["header"]["msg_type"]
    return messages


def kinds(messages: list[dict[str, Any]]) -> list[str]:
    return [message["msg_type"] for message in messages]


def default_kernel(service: Interpreter) -> str:
    return Path(service.folder / "dot-jupyter/kernel_id").read_text().strip()


async def test_the_default_kernel_is_the_default_context(service: Interpreter, rest: httpx.Client) -> None:
    kernel = default_kernel(service)
    assert [item["id"] for item in rest.get("/api/kernels").json()] == [kernel]
    await service.client().run("shared = 41")
    async with channels(service, kernel) as connection:
        messages = await execute(connection, "print('out')\nshared + 1")
    assert kinds(messages) == ["status", "execute_input", "stream", "execute_result", "execute_reply", "status"]
    assert messages[2]["content"] == {"name": "stdout", "text": "out\n"}
    assert messages[3]["content"]["data"] == {"text/plain": "42"}
    assert messages[4]["content"]["status"] == "ok"
    assert messages[1]["content"]["execution_count"] == messages[4]["content"]["execution_count"]


async def test_errors_and_formats(service: Interpreter) -> None:
    async with channels(service, default_kernel(service)) as connection:
        messages = await execute(connection, "1 / 0")
        assert kinds(messages) == ["status", "execute_input", "error", "execute_reply", "status"]
        assert messages[2]["content"]["ename"] == messages[3]["content"]["ename"] == "ZeroDivisionError"
        assert isinstance(messages[2]["content"]["traceback"], list)
        [shown] = [
            m
            for m in await execute(connection, "import pandas; pandas.DataFrame({'a': [1]})")
            if m["msg_type"] == "execute_result"
        ]
        assert set(shown["content"]["data"]) == {"text/plain", "text/html"}  # nothing of later clients' formats
        assert kinds(await execute(connection, "float('nan')"))[2] == "execute_result"


async def test_a_kernel_that_dies_ends_its_cell(service: Interpreter) -> None:
    """Clients wait for ever for a cell without end."""
    async with channels(service, default_kernel(service)) as connection:
        messages = await execute(connection, "import os; os._exit(1)")
        assert "error" in kinds(messages)
        assert "execute_input" in kinds(messages)
        assert (await execute(connection, "1"))[-1]["content"] == {"execution_state": "idle"}


async def test_a_client_that_goes_leaves_its_cell_running(service: Interpreter) -> None:
    kernel = default_kernel(service)
    async with channels(service, kernel) as connection:
        await execute(connection, "import time; time.sleep(1); left = 7", end=False)
    assert (await service.client().run("left")).text == "7"


async def test_sessions(service: Interpreter, rest: httpx.Client, tmp_path: Path) -> None:
    body = json.dumps({"path": "random", "kernel": {"name": "python3"}, "type": "notebook", "name": "random"})
    made = rest.post("/api/sessions", content=body, headers={"Content-Type": "text/plain"})  # as JavaScript sends it
    assert made.status_code == 201
    session = made.json()
    kernel = session["kernel"]["id"]
    assert rest.patch(f"/api/sessions/{session['id']}", json={"path": str(tmp_path)}).status_code == 200
    async with channels(service, kernel) as connection:
        result = (await execute(connection, "import os; os.getcwd()"))[2]
        assert result["content"]["data"]["text/plain"] == repr(str(tmp_path))
    assert rest.post(f"/api/kernels/{kernel}/restart").json()["id"] == kernel
    async with channels(service, kernel) as connection:
        messages = await execute(connection, "os")
        assert messages[2]["content"]["evalue"] == "name 'os' is not defined"
        assert messages[1]["content"]["execution_count"] == 1
    assert rest.get(f"/api/sessions/{session['id']}").json()["kernel"]["id"] == kernel
    assert rest.delete(f"/api/kernels/{kernel}").status_code == 204
    assert rest.get(f"/api/sessions/{session['id']}").status_code == 404
    older = rest.post("/api/kernels", json={"kernel_name": "bash", "cwd": str(tmp_path)})
    assert (older.status_code, older.json()["name"]) == (201, "bash")
    assert rest.delete(f"/api/kernels/{older.json()['id']}").status_code == 204


async def test_refusals(service: Interpreter, rest: httpx.Client) -> None:
    assert rest.post("/api/sessions", json={"kernel": {"name": "cobol"}}).status_code == 501
    assert rest.post("/api/sessions", content=b"{").status_code == 400
    assert rest.post("/api/sessions", json=[]).status_code == 400
    for method, path in (("DELETE", "kernels/none"), ("POST", "kernels/none/restart"), ("PATCH", "sessions/none")):
        assert rest.request(method, f"/api/{path}").status_code == 404
    with pytest.raises(InvalidStatus) as refused:
        async with channels(service, "none"):
            pass
    assert refused.value.response.status_code == 404
    async with channels(service, default_kernel(service)) as connection:
        for nonsense in ("no json", "[]", "{}", '{"header": {"msg_type": "execute_request"}, "content": {"code": 5}}'):
            await connection.send(nonsense)
        assert kinds(await execute(connection, "1"))[-1] == "status"


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        interpreter = Interpreter(tmp_path, JUPYTER_PORT=str(taken.getsockname()[1]))
        interpreter.start()
        try:
            assert b"address already in use" in ask(interpreter).lower()
        finally:
            interpreter.stop()


def test_root_has_a_socket(service: Interpreter) -> None:
    """Where E2B's template of today has its Jupyter server."""
    path = service.jupyter_socket
    assert (path.parent.stat().st_mode & 0o777, path.stat().st_mode & 0o777) == (0o700, 0o600)
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://localhost") as client:
        assert client.get("/api/status").json()["kernels"] >= 1
