"""`sandpit mcp`, through the client of the official package, over standard input and output."""

from __future__ import annotations

import base64
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.types import TextContent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.cli.user import User

pytestmark = pytest.mark.timeout(150)


@asynccontextmanager
async def session(user: User, *options: str) -> AsyncIterator[Client]:
    server = StdioServerParameters(
        command=sys.executable, args=["-P", "-m", "sandpit.cli", "mcp", *options], env=user.environment
    )
    async with Client(stdio_client(server)) as client:
        yield client


async def call(client: Client, tool: str, **arguments: Any) -> list[Any]:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    return list(result.content)


async def text(client: Client, tool: str, **arguments: Any) -> str:
    (content,) = await call(client, tool, **arguments)
    return str(content.text)


async def refused(client: Client, tool: str, **arguments: Any) -> str:
    result = await client.call_tool(tool, arguments)
    assert result.is_error, result.content
    content = result.content[0]
    assert isinstance(content, TextContent)
    return content.text


async def test_tools_of_a_session(user: User) -> None:
    """One sandbox for all calls, from the first to the end of the session."""
    async with session(user) as client:
        tools = (await client.list_tools()).tools
        assert {tool.name for tool in tools} == {"run_code", "run_command", "read_file", "write_file"}
        assert all(tool.description for tool in tools)
        assert user.json("sandbox", "list") == []

        assert await text(client, "write_file", path="data/a.csv", content="x\n1\n2\n") == "wrote 6 bytes to data/a.csv"
        assert await text(client, "read_file", path="/home/user/data/a.csv") == "x\n1\n2\n"
        assert (
            await text(client, "run_code", code="import pandas as pd; t = pd.read_csv('data/a.csv'); print(len(t))")
            == "stdout:\n2\n"
        )
        assert await text(client, "run_code", code="int(t.x.sum())") == "value:\n3"
        assert await text(client, "run_command", command="echo $((6 * 7)); echo why >&2; pwd; exit 3", cwd="/tmp") == (
            "exit status 3\nstdout:\n42\n/tmp\n\nstderr:\nwhy\n"
        )
        (made,) = user.json("sandbox", "list")
        assert made["metadata"] == {"made-by": "sandpit mcp"}
    assert user.state(made["sandboxID"]) == "gone"


async def test_images_errors_and_limits(user: User) -> None:
    async with session(user) as client:
        words, image = await call(client, "run_code", code="import matplotlib.pyplot as p; p.plot([1, 2]); p.show()")
        assert "shown:" in words.text
        assert (image.type, image.mime_type) == ("image", "image/png")
        assert base64.b64decode(image.data).startswith(b"\x89PNG")
        assert "error: ZeroDivisionError: division by zero" in await text(client, "run_code", code="1 / 0")
        assert "characters left out" in await text(client, "run_code", code="print('x' * 100_000)")
        assert "ended after 1 s" in await text(client, "run_command", command="sleep 100", timeout_seconds=1)
        assert "characters left out" in await text(client, "run_command", command="yes | head -c 9M")
        assert "/nowhere" in await refused(client, "read_file", path="/nowhere")
        await text(client, "run_code", code="open('/tmp/b', 'wb').write(b'\\xff')")
        assert "no UTF-8 text" in await refused(client, "read_file", path="/tmp/b")
        (made,) = user.json("sandbox", "list")
        user.kill(made["sandboxID"])
        assert await text(client, "run_command", command="echo again") == "exit status 0\nstdout:\nagain\n"


async def test_a_given_sandbox_stays(user: User, sandbox: str) -> None:
    async with session(user, "--sandbox", sandbox) as client:
        await text(client, "run_command", command="echo here > /tmp/note")
        assert "interpreter" in await refused(client, "run_code", code="1")
    assert user.state(sandbox) == "running"
    async with session(user, "--sandbox", sandbox) as client:
        assert await text(client, "read_file", path="/tmp/note") == "here\n"


def test_what_is_missing_is_told(user: User) -> None:
    status, words = user.refused("mcp", "--sandbox", "inothing")
    assert (status, "not found" in words) == (1, True)
