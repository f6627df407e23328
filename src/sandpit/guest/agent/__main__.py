"""The agent as a program: `python -m sandpit.guest.agent`, in a sandbox PID 1."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import uvloop
from uvicorn.config import Config

from sandpit.guest.agent.connections import GATEWAY, Connection, Connections
from sandpit.guest.agent.control.identity import use_resolver
from sandpit.guest.agent.control.lender import Lender
from sandpit.guest.agent.control.listeners import BACKLOG, Held, hold
from sandpit.guest.agent.control.secrets import ControlKeys, received_keys
from sandpit.guest.agent.control.state import AgentState
from sandpit.guest.agent.legacy.door import MAX_MESSAGE_BYTES, Door, web_socket
from sandpit.guest.agent.relay import Relay
from sandpit.guest.agent.server import build_app
from sandpit.guest.agent.sudo import elevate
from sandpit.guest.agent.sudo import shim as sudo_shim
from sandpit.protocol import ports

if TYPE_CHECKING:
    from collections.abc import Callable

LOG = Path("/run/sandpit/agent.log")
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT
_HARMLESS_SIGNALS = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
"""gVisor, unlike Linux (pid_namespaces(7)), lets PID 1 die of what a process sends it by mistake."""
_KEEP_ALIVE_S = 3600
"""The edge keeps connections for reuse; it decides when one is too old."""


def main() -> None:
    """Serve until killed."""
    options = _options()
    keys = received_keys()
    os.umask(0o022)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # this too is inherited
    os.chdir("/")
    for number in _HARMLESS_SIGNALS:
        signal.signal(number, lambda *_: None)  # not SIG_IGN, which all that we start would inherit
    # First, and before any other process: nobody else can have these ports.
    held = [hold(options.host, port) for port in (options.port, options.relay_port, options.legacy_port)]
    uvloop.run(serve(options.host, held, options.gateway, keys))


async def serve(host: str, held: list[Held], gateway: str, keys: ControlKeys | None) -> None:
    """Serve on all ports (the current protocol's, the relay's, that of 2024), and reap children, for ever.

    uvicorn's connections without its server, which wakes up ten times a second (a hundred idle sandboxes would notice)
    and takes over signals.
    """
    loop = asyncio.get_running_loop()
    agent = AgentState(gateway=gateway, control=keys)
    app = build_app(agent)
    # Not add_signal_handler: uvloop keeps SIGCHLD for its own subprocesses, of which there are none.
    signal.signal(signal.SIGCHLD, lambda *_: loop.call_soon_threadsafe(app.state.processes.reap))
    app.state.processes.reap()
    use_resolver(gateway, agent.journal)
    sockets = [one.listener for one in held]
    http = await _listen(app, sockets[0], gateway)
    legacy = await _listen(Door(agent, app.state.processes), sockets[2], gateway, web_socket)
    relay = await loop.create_server(lambda: Relay(agent), sock=sockets[1], backlog=BACKLOG)
    ports = [listener.getsockname()[1] for listener in sockets]
    sys.stderr.write(f"sandpit agent: listening on {host}, port {ports[0]}, relay {ports[1]}, 2024's {ports[2]}\n")
    if os.getpid() == 1:
        leave_host_output()
        Lender(host).listen()
        if sudo_shim.kernel_ignores_set_user_id():
            elevate.Elevator(app.state.processes).listen()
            sudo_shim.keep_replaced()
    async with http, relay, legacy:
        await http.serve_forever()


async def _listen(
    app: Any, listener: socket.socket, gateway: str, web_socket: Callable[..., Any] | Literal["none"] = "none"
) -> asyncio.Server:
    """Serve an ASGI application. Websockets are not pinged: a client that is busy for a while has not gone."""
    config = Config(
        app,
        http="httptools",
        ws=web_socket,  # type: ignore[arg-type]  # any maker of protocols will do
        ws_max_size=MAX_MESSAGE_BYTES,
        ws_ping_interval=None,
        ws_per_message_deflate=False,
        lifespan="off",
        interface="asgi3",
        access_log=False,
        log_config=None,
        log_level="error",
        date_header=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
    )
    config.load()
    state = Connections(gateway)
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: Connection(config, state, {}), sock=listener, backlog=BACKLOG)


def leave_host_output() -> None:
    """Write to a file of the sandbox from now on.

    Until here output goes to a file of the host, whose size nothing limits, and root in the sandbox can open our descriptors.
    """
    LOG.parent.mkdir(parents=True, exist_ok=True)
    for number, path, flags in ((0, os.devnull, os.O_RDONLY), (1, LOG, _APPEND), (2, LOG, _APPEND)):
        descriptor = os.open(path, flags, 0o600)
        os.dup2(descriptor, number)
        os.close(descriptor)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="sandpit-agent", description="The daemon inside a sandbox.")
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on")
    parser.add_argument("--port", type=int, default=ports.AGENT, help="port of the current protocol (0: any)")
    parser.add_argument("--relay-port", type=int, default=ports.RELAY, help="port of the relay (0: any)")
    parser.add_argument(
        "--legacy-port", type=int, default=ports.LEGACY_AGENT, help="port of the protocol of 2024 (0: any)"
    )
    parser.add_argument("--gateway", default=GATEWAY, help="the only peer served control calls and the relay")
    return parser.parse_args()


if __name__ == "__main__":
    main()
