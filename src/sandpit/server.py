"""The server process: api, control, edge and node on one event loop.

It writes `run_dir/server.json` when it is ready and answers on `run_dir/control.sock` (owner only) to the CLI of the same machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import resource
import signal
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn

from sandpit import __version__
from sandpit.admin import admin_app
from sandpit.api.app import create_app
from sandpit.api.connections import MAX_CONNECTIONS, BoundedConnection
from sandpit.control.app import ControlPlane
from sandpit.edge import Edge, Limits
from sandpit.node.assemble import local_node
from sandpit.places import control_socket, key_file, lock_file, state_file
from sandpit.settings import Settings
from sandpit.tls import tls_of, usable_hosts

log = logging.getLogger(__name__)

_OWN_DESCRIPTORS = 512
"""Descriptors that strangers' connections must leave for the rest: the store, pidfds of sandboxes, host tools."""

_IDLE_SECONDS = 75
"""How long the API keeps a connection open on which no request comes: clients ask every few seconds, and one that reuses a
connection in the moment of its end fails."""


class AlreadyRunning(RuntimeError):
    """Another server owns this run directory."""


async def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT, or until told on the control socket. Raises: AlreadyRunning, NodeError, OSError."""
    server = Server(settings)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.ask_to_stop)
    async with AsyncExitStack() as stack:
        _own(settings, stack)
        await server.run(stack)


class Server:
    """Everything of one process, wired."""

    def __init__(self, settings: Settings) -> None:
        """Nothing is started before `run`."""
        self.settings = settings
        self._stop = asyncio.Event()
        self._kill_sandboxes = False
        self._addresses: dict[str, str] = {}

    def ask_to_stop(self, *, kill_sandboxes: bool = False) -> None:
        """End `run`; sandboxes go on unless told otherwise."""
        self._kill_sandboxes |= kill_sandboxes
        self._stop.set()

    def _stop_as_told(self, kill_sandboxes: bool) -> None:
        self.ask_to_stop(kill_sandboxes=kill_sandboxes)

    async def run(self, stack: AsyncExitStack) -> None:
        """Start everything in order, wait, stop everything in reverse order."""
        settings = self.settings
        self._node = local_node(settings)
        self._control = await stack.enter_async_context(ControlPlane(settings, self._node))
        if self._control.first_key is not None:
            _write_private(key_file(settings), self._control.first_key + "\n")
        api = _listen(settings.api_host, settings.api_port)
        await stack.enter_async_context(_asgi(create_app(self._control), api, http=BoundedConnection))
        admin = admin_app(self._control.services, self._status, self._stop_as_told)
        await stack.enter_async_context(_asgi(admin, _listen_private(control_socket(settings))))
        backend = api.getsockname()[:2]
        tls = await stack.enter_async_context(tls_of(settings)) if settings.tls else None
        edge = Edge(
            self._control.directory,
            host=settings.edge_host,
            port=settings.edge_port,
            api_backend=backend,
            limits=Limits(connections=_edge_connections(_raise_open_files())),
            ssl_context=tls,
            tls_host=usable_hosts(settings.tls_host),
            tls_port=settings.tls_port,
        )
        await edge.start()
        stack.push_async_callback(edge.stop)
        edge_host, edge_port = edge.addresses[0][:2]
        self._addresses = {"api": f"http://{backend[0]}:{backend[1]}", "edge": f"http://{edge_host}:{edge_port}"}
        if edge.tls_addresses:
            tls_host, tls_port = edge.tls_addresses[0]
            self._addresses["tls"] = f"https://{f'[{tls_host}]' if ':' in tls_host else tls_host}:{tls_port}"
        _write_private(state_file(settings), json.dumps(self.description()))
        stack.callback(state_file(settings).unlink, missing_ok=True)
        log.info("ready: API %(api)s, sandboxes %(edge)s", self._addresses)
        await self._stop.wait()
        self._node.seal()
        if self._kill_sandboxes:
            await self._control.services.sandboxes.kill_all("the server was told to end all sandboxes")

    def description(self) -> dict[str, Any]:
        """What this server is."""
        return {"pid": os.getpid(), "version": __version__, "addresses": self._addresses}

    def _status(self) -> dict[str, Any]:
        templates = [
            {"template": image.names[0], "build": image.build_id, "runtime": image.runtime}
            for image in self._node.templates()
        ]
        counts = {"running": self._control.services.sandboxes.running(), "ready": self._node.pool_sizes()}
        return {
            **self.description(),
            "sandboxes": counts,
            "templates": templates,
            "runtimes": self._node.releases(),
            "share": self._node.share(),
            "full": self._node.why_full(),
        }


def _own(settings: Settings, stack: AsyncExitStack) -> None:
    """Hold the run directory for this process's life. Raises: AlreadyRunning."""
    settings.run_dir.mkdir(parents=True, exist_ok=True, mode=0o711)
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o711)
    lock = stack.enter_context(lock_file(settings).open("w"))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise AlreadyRunning(f"a server is running with {settings.data_dir} already: see `sandpit status`") from None


def _raise_open_files() -> int:
    """Have as many descriptors as this process may: shells give few, for the sake of select(2). Returns how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def _edge_connections(descriptors: int) -> int:
    """How many connections the edge accepts: two descriptors each, beside the API's and the server's own."""
    usual = Limits().connections
    if descriptors == resource.RLIM_INFINITY:
        return usual
    return max(64, min(usual, (descriptors - _OWN_DESCRIPTORS - MAX_CONNECTIONS) // 2))


@asynccontextmanager
async def _asgi(app: Any, sock: socket.socket, http: Any = "httptools") -> AsyncIterator[None]:
    """Serve an ASGI application on a listening socket; `http` is the connections' class, as uvicorn takes it."""
    config = uvicorn.Config(
        app, loop="none", http=http, ws="none", lifespan="off", access_log=False, log_level="warning",
        timeout_graceful_shutdown=5, timeout_keep_alive=_IDLE_SECONDS, server_header=False,
    )  # fmt: skip
    server = _Quiet(config)
    task = asyncio.create_task(server.serve(sockets=[sock]))
    try:
        while not server.started and not task.done():
            await asyncio.sleep(0.005)
        yield
    finally:
        server.should_exit = True
        await task


class _Quiet(uvicorn.Server):
    """Signals belong to the process, not to each listener."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=2048)


def _listen_private(path: Path) -> socket.socket:
    """A unix socket for the owner alone."""
    if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
        path.unlink()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        sock.bind(str(path))
    finally:
        os.umask(mask)
    sock.listen(64)
    return sock


def _write_private(path: Path, text: str) -> None:
    """Replace a file that only the owner may read."""
    temporary = path.with_name(f"{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    temporary.rename(path)
