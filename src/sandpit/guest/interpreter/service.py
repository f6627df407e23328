"""The code interpreter service: its default kernels, then its ports."""

from __future__ import annotations

from typing import TYPE_CHECKING

import uvicorn

from sandpit.guest.agent.connections import Connection, Connections
from sandpit.guest.interpreter.app import build_app
from sandpit.guest.interpreter.jupyter.door import Door
from sandpit.guest.interpreter.ports import borrow
from sandpit.guest.interpreter.registry import Registry

if TYPE_CHECKING:
    from sandpit.guest.interpreter.settings import Settings

_IDLE_SECONDS = 640
"""How long an idle connection is kept: longer than proxies do, so that they close first (code-interpreter 2.1)."""


async def serve(settings: Settings) -> None:
    """Start the default kernels, then listen until a signal comes: who can connect finds them ready.

    Raises: ContextCreationError if there is no Python kernel, OSError if the port is taken.
    """
    async with Registry(settings).running() as registry, Door(registry, settings).ready():
        config = uvicorn.Config(
            build_app(registry),
            http=Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=_IDLE_SECONDS,
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(config)
        server.server_state = Connections()
        with borrow(settings.lender, settings.host, settings.port) as listener:
            await server.serve(sockets=[listener])
