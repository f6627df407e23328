"""The `sandpit` command, whose server cannot stop in order: what it waits for never comes.

usage: python -P tests/attack/hanging_server.py ARGUMENT...
"""

from __future__ import annotations

import time

from sandpit.control.lifecycle.sandboxes import SandboxService
from sandpit.server import app as server


async def hang(self: SandboxService, reason: str) -> None:
    """Not even the event loop goes on."""
    while True:
        time.sleep(60)


def main() -> None:
    server.STOP_SECONDS = 2.0
    SandboxService.kill_all = hang  # type: ignore[method-assign]
    from sandpit.cli.main import main as sandpit

    sandpit()


if __name__ == "__main__":
    main()
