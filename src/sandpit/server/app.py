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
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import uvicorn

from sandpit import __version__
from sandpit.api.app import create_app
from sandpit.api.http.connections import MAX_CONNECTIONS, bounded
from sandpit.control.app import ControlPlane
from sandpit.control.lifecycle.sweeping import MAX_REPORTED
from sandpit.edge import Edge, Limits
from sandpit.lib.peers import Peers
from sandpit.lib.private import guarded, replace_private
from sandpit.lib.serverlog import FairShare
from sandpit.server.admin import admin_app
from sandpit.server.assemble import local_node
from sandpit.server.places import control_socket, lock_file, state_file
from sandpit.server.settings import Settings
from sandpit.server.tls import tls_of, usable_hosts

log = logging.getLogger(__name__)

STOP_SECONDS = 50.0
"""From the wish to stop to the end of the process, at most, whatever sandboxes and clients do."""
GAVE_UP = 70
"""Exit status of a server that could not stop in order."""
_OWN_DESCRIPTORS = 1024
"""Descriptors that clients' connections must leave for the rest: the store, pidfds of sandboxes, host tools, the relay for names."""

_IDLE_SECONDS = 75
"""How long the API keeps a connection open on which no request comes: clients ask every few seconds, and one that reuses a
connection in the moment of its end fails."""


class AlreadyRunning(RuntimeError):
    """Another server owns this run directory."""


async def serve(settings: Settings, share: FairShare | None = None) -> None:
    """Run until SIGTERM or SIGINT, or until told on the control socket. Raises: AlreadyRunning, NodeError, OSError.

    `share` divides the log among tenants, and learns here whose a sandbox is.
    """
    server = Server(settings, share)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.ask_to_stop)
    async with AsyncExitStack() as stack:
        _own(settings, stack)
        await server.run(stack)


class Server:
    """Everything of one process, wired."""

    def __init__(self, settings: Settings, share: FairShare | None = None) -> None:
        """Nothing is started before `run`."""
        self.settings = settings
        self._share = share
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
        control = ControlPlane(settings, self._node)
        if self._share is not None:
            self._share.tenant_of = control.services.sandboxes.live.team_of
        self._control = await stack.enter_async_context(control)
        api = _listen(settings.api_host, settings.api_port)
        each, proxies = settings.api_client_connections, settings.trusted_proxies
        peers = Peers(total=MAX_CONNECTIONS, each=each, proxies=proxies)
        gateway_ports: set[int] = set()
        http = bounded(peers, gateway_ports)
        await stack.enter_async_context(_asgi(create_app(self._control), api, http=http))
        admin = admin_app(self._control.services, self._status, self._stop_as_told)
        await stack.enter_async_context(_asgi(admin, _listen_private(control_socket(settings))))
        backend = api.getsockname()[:2]
        tls = await stack.enter_async_context(tls_of(settings)) if settings.tls else None
        edge = Edge(
            self._control.directory,
            host=settings.edge_host,
            port=settings.edge_port,
            api_backend=backend,
            limits=_edge_limits(settings, _raise_open_files()),
            api_ports=gateway_ports,
            ssl_context=tls,
            tls_host=usable_hosts(settings.tls_host),
            tls_port=settings.tls_port,
        )
        await edge.start()
        stack.push_async_callback(edge.stop)
        edge_host, edge_port = edge.addresses[0][:2]
        self._control.domain = settings.public_domain(edge.tls_addresses[0][1] if edge.tls_addresses else edge_port)
        self._addresses = {"api": f"http://{backend[0]}:{backend[1]}", "edge": f"http://{edge_host}:{edge_port}"}
        if edge.tls_addresses:
            tls_host, tls_port = edge.tls_addresses[0]
            self._addresses["tls"] = f"https://{f'[{tls_host}]' if ':' in tls_host else tls_host}:{tls_port}"
        replace_private(state_file(settings), json.dumps(self.description()))
        stack.callback(state_file(settings).unlink, missing_ok=True)
        log.info("ready: API %(api)s, sandboxes %(edge)s", self._addresses)
        await self._stop.wait()
        self._node.seal()
        self._give_up_after(STOP_SECONDS)
        if self._kill_sandboxes:
            await self._control.services.sandboxes.kill_all("the server was told to end all sandboxes")

    def _give_up_after(self, seconds: float) -> None:
        """Whatever a stop waits for, a guest, a disk, a thread: the process ends in time. The next start puts right what this one left.

        A thread, since the event loop or the end of other threads may be what is waited for.
        """
        timer = threading.Timer(seconds, self._give_up, (seconds,))
        timer.daemon = True
        timer.start()

    def _give_up(self, seconds: float) -> None:
        log.critical(
            "the server has not stopped within %g s: it ends without cleaning up, the next start does", seconds
        )
        if self._kill_sandboxes:
            with contextlib.suppress(Exception):  # nothing may keep it from ending
                self._node.kill_now()
        logging.shutdown()
        os._exit(GAVE_UP)

    def description(self) -> dict[str, Any]:
        """What this server is."""
        return {"pid": os.getpid(), "version": __version__, "addresses": self._addresses}

    def _status(self) -> dict[str, Any]:
        templates = [
            {"template": image.names[0], "build": image.build_id, "runtime": image.runtime}
            for image in self._node.templates()
        ]
        overdue = self._control.sweeper.overdue()
        counts = {
            "running": self._control.services.sandboxes.running(),
            "ready": self._node.pool_sizes(),
            "overdue": len(overdue),
        }
        return {
            **self.description(),
            "sandboxes": counts,
            "overdue": [asdict(item) for item in overdue[:MAX_REPORTED]],
            "templates": templates,
            "runtimes": self._node.releases(),
            "share": self._node.share(),
            "full": self._node.why_full(),
            "disk": asdict(self._node.room()),
        }


def _own(settings: Settings, stack: AsyncExitStack) -> None:
    """Hold the run directory for this process's life. Raises: AlreadyRunning."""
    for directory in (settings.run_dir, settings.data_dir):
        guarded(directory)
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


def _edge_limits(settings: Settings, descriptors: int) -> Limits:
    """What the edge grants, as the operator has it and this process can."""
    connections = _edge_connections(descriptors)
    return Limits(
        connections=connections,
        client_connections=min(settings.edge_client_connections, max(connections // 2, 1)),
        proxies=settings.trusted_proxies,
        pool_total=min(Limits().pool_total, max(connections // 4, 1)),
    )


def _edge_connections(descriptors: int) -> int:
    """How many connections the edge accepts, beside the API's and the server's own: two descriptors each, and idle ones to sandboxes."""
    usual = Limits().connections
    if descriptors == resource.RLIM_INFINITY:
        return usual
    return max(64, min(usual, (descriptors - _OWN_DESCRIPTORS - MAX_CONNECTIONS) * 4 // 9))


@asynccontextmanager
async def _asgi(app: Any, sock: socket.socket, http: Any = "httptools") -> AsyncIterator[None]:
    """Serve an ASGI application on a listening socket; `http` is the connections' class, as uvicorn takes it."""
    config = uvicorn.Config(
        app, loop="none", http=http, ws="none", lifespan="off", access_log=False, log_level="error", log_config=None,
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
