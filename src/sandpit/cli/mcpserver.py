"""`sandpit mcp`: a sandbox as tools for any client of the Model Context Protocol.

One sandbox for a session, made when a tool is first called and ended with the session. What code in it says goes to a model: it is cut
to a size that a model can read, and a failure is an answer, not an end.
"""

from __future__ import annotations

import asyncio
import base64
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

from sandpit import __version__
from sandpit.cli.accounts import account as accounts
from sandpit.cli.agent import Agent, AgentError
from sandpit.cli.client import Api, Json, path_of
from sandpit.cli.errors import CliError

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer

MAX_TEXT = 50_000
"""Characters of one answer."""
MAX_FILE = 1 << 20
"""Bytes of a file that is read as text."""
COMMAND_SECONDS = 120
_EXTEND_SECONDS = 20
"""Between two calls that keep the sandbox alive while a tool works."""
_INSTRUCTIONS = (
    "An isolated Linux machine with internet access, Python (numpy, pandas, matplotlib and more) and root by sudo. "
    "Files, variables and processes stay from one call to the next. Draw charts inline with matplotlib: they are returned."
)


def serve(template: str, sandbox_id: str | None, timeout: int) -> None:
    """Serve on standard input and output until it ends. Raises: CliError."""
    try:
        import mcp.server.mcpserver  # noqa: F401 - whether it is there
    except ImportError:
        raise CliError(
            "the package `mcp` is not installed", f"{sys.executable} -m pip install 'sandpit[mcp]'"
        ) from None
    box = Box(template, sandbox_id, timeout)
    build(box).run()


class Box:
    """The session's sandbox, made at the first use."""

    def __init__(self, template: str, sandbox_id: str | None, timeout: int) -> None:
        """Raises: CliError: no server is known, or the given sandbox is not there."""
        self._account = accounts.find()
        self._template, self._timeout = template, timeout
        self._given = sandbox_id
        self._made: Json | None = None
        self._lock = asyncio.Lock()
        if sandbox_id is not None:
            with Api(self._account) as api:
                api.connect(sandbox_id, timeout)

    @asynccontextmanager
    async def agent(self) -> AsyncIterator[Agent]:
        """The sandbox's agent, for one call; the sandbox lives on for the call's time and the timeout. Raises: ToolError."""
        from mcp.server.mcpserver.exceptions import ToolError

        try:
            async with self._agent() as agent:
                yield agent
        except CliError as error:
            raise ToolError(str(error)) from None  # the words of others are not told to the model

    @asynccontextmanager
    async def _agent(self) -> AsyncIterator[Agent]:
        async with self._lock:
            sandbox = await asyncio.to_thread(self._sandbox)
        alive = asyncio.create_task(self._keep_alive(sandbox["sandboxID"]))
        try:
            async with Agent(self._account, sandbox) as agent:
                yield agent
        finally:
            alive.cancel()
            await asyncio.gather(alive, return_exceptions=True)

    def _sandbox(self) -> Json:
        with Api(self._account) as api:
            name = self._given or (self._made or {}).get("sandboxID")
            if name is not None:
                try:
                    return api.connect(name, self._timeout)
                except CliError as error:
                    if error.code != 404 or self._given is not None:
                        raise
            body = {"templateID": self._template, "timeout": self._timeout, "metadata": {"made-by": "sandpit mcp"}}
            self._made = api.call("POST", "/v2/sandboxes", body)
            return self._made

    async def _keep_alive(self, name: str) -> None:
        def extend() -> None:
            with Api(self._account) as api:
                api.connect(name, self._timeout)

        while True:
            await asyncio.sleep(_EXTEND_SECONDS)
            await asyncio.gather(asyncio.to_thread(extend), return_exceptions=True)

    async def close(self) -> None:
        """End the sandbox, if it was made here."""
        if self._made is not None:
            made, self._made = self._made, None
            await asyncio.gather(asyncio.to_thread(self._kill, made["sandboxID"]), return_exceptions=True)

    def _kill(self, name: str) -> None:
        with Api(self._account) as api:
            api.call("DELETE", path_of(name))


def build(box: Box) -> MCPServer[Any]:
    """The server with its tools."""
    from mcp.server.mcpserver import Image, MCPServer

    @asynccontextmanager
    async def life(_: Any) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(box.close)
            yield

    server: MCPServer[Any] = MCPServer("sandpit", version=__version__, instructions=_INSTRUCTIONS, lifespan=life)

    @server.tool(structured_output=False)
    async def run_code(code: str, language: str = "python") -> list[Any]:
        """Run a notebook cell: returns what it prints, its value, its charts as images, and its error if it fails."""
        async with box.agent() as agent:
            events = await agent.run_code(code, language)
        images = [Image(data=data, format="png") for data in charts(events)]
        return [cell_text(events), *images]

    @server.tool(structured_output=False)
    async def run_command(command: str, cwd: str | None = None, timeout_seconds: int = COMMAND_SECONDS) -> str:
        """Run a line of bash: returns its exit status and what it prints. It is ended after `timeout_seconds`."""
        async with box.agent() as agent:
            return await command_text(agent, command, cwd, timeout_seconds)

    @server.tool(structured_output=False)
    async def read_file(path: str) -> str:
        """Read a text file of at most 1 MiB."""
        async with box.agent() as agent:
            return as_text(await agent.files("GET", path), path)

    @server.tool(structured_output=False)
    async def write_file(path: str, content: str) -> str:
        """Write a text file, with the directories that it needs; replaces what was there."""
        data = content.encode()
        async with box.agent() as agent:
            await agent.files("POST", path, data)
        return f"wrote {len(data)} bytes to {path}"

    return server


def as_text(content: bytes, path: str) -> str:
    """A file for a model. Raises: CliError: it is none."""
    if len(content) > MAX_FILE:
        raise CliError(
            f"{path} has {len(content)} bytes, more than can be read as text", "read a part with run_command"
        )
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise CliError(f"{path} is no UTF-8 text", "look at it with run_command or run_code") from None


async def command_text(agent: Agent, command: str, cwd: str | None, seconds: int) -> str:
    """Run a command and describe what came of it. Raises: CliError."""
    process: Json = {"cmd": "/bin/bash", "args": ["-l", "-c", command]}
    if cwd:
        process["cwd"] = cwd
    output: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
    status = "did not end"
    try:
        async with agent.start({"process": process, "stdin": False}, seconds=seconds) as events:
            async for event in events:
                _collect(event.get("data") or {}, output)
                status = (event.get("end") or {}).get("status", status)
    except AgentError as error:
        if error.kind != "deadline_exceeded":
            raise
        status = f"ended after {seconds} s, the time limit"
    parts = [status, *(f"{name}:\n{held.decode(errors='replace')}" for name, held in output.items() if held)]
    return short("\n".join(parts))


def _collect(data: Json, output: dict[str, bytearray]) -> None:
    """Keep the beginning and the end of what comes."""
    for name, held in output.items():
        if name in data:
            held += base64.b64decode(data[name])
            if len(held) > 8 * MAX_TEXT:
                del held[2 * MAX_TEXT : -2 * MAX_TEXT]


def cell_text(events: list[Json]) -> str:
    """What a cell printed, its values, and its error."""
    printed = {
        name: "".join(event["text"] for event in events if event["type"] == name) for name in ("stdout", "stderr")
    }
    parts = [f"{name}:\n{text}" for name, text in printed.items() if text]
    for event in events:
        if event["type"] == "result" and event.get("text"):
            parts.append(f"{'value' if event.get('is_main_result') else 'shown'}:\n{event['text']}")
        elif event["type"] == "error":
            parts.append(f"error: {event['name']}: {event['value']}\n{event['traceback']}")
    return short("\n".join(parts) or "(no output)")


def charts(events: list[Json]) -> list[bytes]:
    """The images of a cell's results, as PNG."""
    return [base64.b64decode(event["png"]) for event in events if event["type"] == "result" and event.get("png")]


def short(text: str) -> str:
    """Beginning and end of a text that is too long."""
    if len(text) <= MAX_TEXT:
        return text
    half = MAX_TEXT // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"
