"""Bringing a sandbox to rest before a checkpoint."""

from __future__ import annotations

import asyncio

from sandpit.node.sandboxes.launcher import Sandbox

_QUIET_SECONDS = 0.03


async def quiesce(sandbox: Sandbox) -> None:
    """Leave no connection open that the checkpoint would cut.

    gVisor saves an epoll instance's list of ready descriptors while it cuts connections; an event in between makes the restored instance
    deaf (google/gvisor#13920, #14147). Without connections there is no event.
    """
    await sandbox.agent.hang_up()
    await asyncio.sleep(_QUIET_SECONDS)
