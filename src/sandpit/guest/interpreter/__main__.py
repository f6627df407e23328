"""Start of the code interpreter service."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

ALSO = "(jupyter server, jupyter-server, uvicorn main:app)"
"""E2B's template has a Jupyter server and this service behind it: who looks for either by its command line finds ours."""


def main() -> None:
    """Run the service; ends with status 1 and a reason if it cannot start."""
    if sys.argv == ["interpreter"]:
        _take_names()
    import uvloop

    from sandpit.guest.interpreter.registry import ContextCreationError
    from sandpit.guest.interpreter.service import serve
    from sandpit.guest.interpreter.settings import Settings

    logging.basicConfig(level=logging.INFO, format="interpreter: %(levelname)s %(message)s")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    try:
        uvloop.run(serve(Settings.from_environ()))
    except ContextCreationError as problem:
        sys.exit(f"interpreter: cannot start: {problem}")


def _take_names() -> None:
    """Become the same program with the names in its command line.

    Here, not in the template's start command: there the shell that starts us again would have them, too, and die with us.
    """
    command = Path("/proc/self/cmdline").read_bytes().removesuffix(b"\0").split(b"\0")
    os.execv(command[0], [*command, ALSO.encode()])  # noqa: S606 - our own command line


if __name__ == "__main__":
    main()
