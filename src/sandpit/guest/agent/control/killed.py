"""`POST /memory?killed=PID`: the node has killed a process because the sandbox was out of memory.

The agent leaves a file named after the process for whoever waits for its end: the code interpreter, when the process was a kernel.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.responses import Response

if TYPE_CHECKING:
    from starlette.requests import Request

KILLED = Path("/run/sandpit/out-of-memory")
_MOST = 64
"""Files that are kept: nobody asks for most of them."""
_PID = re.compile(r"[1-9][0-9]{0,9}")


async def note(request: Request) -> Response:
    """POST: leave the file."""
    pid = request.query_params.get("killed", "")
    if not _PID.fullmatch(pid):
        return Response(status_code=400)
    KILLED.mkdir(mode=0o755, parents=True, exist_ok=True)
    _make_room()
    (KILLED / pid).touch()
    return Response(status_code=204)


def _make_room() -> None:
    """Remove the oldest files."""
    with contextlib.suppress(OSError):
        files = sorted(KILLED.iterdir(), key=lambda path: path.stat().st_mtime)
        for path in files[: max(0, len(files) - _MOST + 1)]:
            path.unlink(missing_ok=True)
