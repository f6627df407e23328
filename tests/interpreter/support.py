"""A real interpreter service with real kernels, on a port of its own."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

# Not PYTHONPATH: kernels would inherit it.
_PROGRAM = """
import sys
sys.path.insert(0, sys.argv.pop())
from sandpit.guest.interpreter.__main__ import main
main()
"""
SOURCES = Path(__file__).parents[2] / "src"


@dataclass
class Answer:
    """The lines of one execution."""

    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def types(self) -> list[str]:
        return [event["type"] for event in self.events]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == kind]

    @property
    def stdout(self) -> str:
        return "".join(event["text"] for event in self.of("stdout"))

    @property
    def text(self) -> str | None:
        return next((event["text"] for event in self.of("result") if event["is_main_result"]), None)

    @property
    def error(self) -> dict[str, Any]:
        [error] = self.of("error")
        return error


class Interpreter:
    """A running service."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.instance_file = folder / "instance.json"
        self.home = folder / "home"
        self.home.mkdir()
        self._sockets = TemporaryDirectory(prefix="sandpit-")  # `folder` is too long a path for unix sockets
        self._install_kernelspecs()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.run_dir = Path(self._sockets.name) / "run"
        self.jupyter_socket = Path(self._sockets.name) / "jupyter/server.sock"
        ours = {
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
            "CWD": str(self.home),
            "RUNTIME_DIR": str(self.run_dir),
            "JUPYTER_DIR": str(folder / "dot-jupyter"),
            "JUPYTER_SOCKET": str(self.jupyter_socket),
            "INSTANCE_FILE": str(self.instance_file),
            **settings,
        }
        self._env = {
            **{key: value for key, value in os.environ.items() if not key.startswith("PYTEST")},
            "JUPYTER_PATH": str(folder / "jupyter"),
            "TEMPLATE_VARIABLE": "from the image",
            **{f"SANDPIT_INTERPRETER_{key}": value for key, value in ours.items()},
        }
        self.log = folder / "log"
        self.process: subprocess.Popen[bytes]

    def client(self) -> Client:
        """A new client of this service."""
        return Client(self)

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, str(SOURCES)], env=self._env, stdout=log, stderr=log
            )
        while True:
            try:
                httpx.get(self.url + "/health")
            except httpx.TransportError:
                assert self.process.poll() is None, self.log.read_text()
                time.sleep(0.05)
            else:
                return

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(20)
        self._sockets.cleanup()

    def write_instance(self, instance: str, variables: Mapping[str, str], **fields: str) -> None:
        """What the agent does: replace the file by a rename."""
        data = {"sandboxID": "sbx", "templateID": "tpl", "instance": instance, "envVars": dict(variables), **fields}
        draft = self.instance_file.with_suffix(".new")
        draft.write_text(json.dumps(data))
        draft.rename(self.instance_file)

    def _install_kernelspecs(self) -> None:
        for name, module, language in (
            ("python3", "ipykernel_launcher", "python"),
            ("bash", "bash_kernel", "bash"),
            ("broken", "no_such_module", "broken"),
        ):
            spec = self.folder / "jupyter" / "kernels" / name / "kernel.json"
            spec.parent.mkdir(parents=True)
            argv = [sys.executable, "-m", module, "-f", "{connection_file}"]
            spec.write_text(json.dumps({"argv": argv, "display_name": name, "language": language}))


class Client:
    """Speaks to the service as the official clients do: one connection per request."""

    def __init__(self, interpreter: Interpreter) -> None:
        self.interpreter = interpreter
        limits = httpx.Limits(max_keepalive_connections=0)
        self.http = httpx.AsyncClient(base_url=interpreter.url, timeout=50, limits=limits)

    async def run(self, code: str, context: str | None = None, **body: Any) -> Answer:
        body = {"code": code, "context_id": context, "language": None, "env_vars": None, **body}
        answer = Answer()
        # Not httpx's JSON: it refuses lone surrogates, which clients can send escaped.
        async with self.http.stream("POST", "/execute", content=json.dumps(body)) as response:
            assert response.status_code == 200, await response.aread()
            async for line in response.aiter_lines():
                assert line.isascii()
                answer.events.append(json.loads(line))
        assert answer.events[-1] == {"type": "end_of_execution"}
        assert answer.types.count("end_of_execution") == 1
        return answer

    async def context(self, **body: Any) -> str:
        response = await self.http.post("/contexts", json=body)
        assert response.status_code == 200, response.text
        return str(response.json()["id"])

    @asynccontextmanager
    async def running(self, code: str, context: str | None = None) -> AsyncIterator[asyncio.Task[Answer]]:
        """A cell in the background that has started: `code` runs after its first line of output."""
        started = asyncio.Event()

        async def read() -> Answer:
            answer = Answer()
            body = {"code": f"print('started', flush=True)\n{code}", "context_id": context}
            async with self.http.stream("POST", "/execute", json=body) as response:
                async for line in response.aiter_lines():
                    answer.events.append(json.loads(line))
                    if answer.events[-1]["type"] == "stdout":
                        started.set()
            return answer

        task = asyncio.create_task(read())
        waiting = asyncio.create_task(started.wait())
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        yield task
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
