"""The last words of an answer whose sandbox ended on its own while it was streaming: in formats that can carry an error, it says why.

Clients see a connection that breaks off as a sandbox that was killed or timed out.
"""

from __future__ import annotations

import json

from sandpit.protocol import ports
from sandpit.protocol.connect import END_STREAM, frame

_CONNECT = b"application/connect+"
_LINES = b"application/x-ndjson"


def farewell(content_type: bytes, port: int, why: str) -> bytes | None:
    """What ends such an answer behind a complete message; None for other formats and other servers' answers.

    The agent's are streams of Connect messages (current-protocol 4.3), the interpreter's lines of JSON (code-interpreter 2.5).
    """
    if port == ports.AGENT and content_type.lower().startswith(_CONNECT):
        # This code has no meaning of its own to clients: they show code and message.
        end = json.dumps({"error": {"code": "aborted", "message": f"The sandbox ended: {why}"}}).encode()
        return frame(end, END_STREAM)
    if port == ports.INTERPRETER and content_type.lower().startswith(_LINES):
        error = {"type": "error", "name": "SandboxEnded", "value": f"The sandbox ended: {why}", "traceback": ""}
        return b"".join(json.dumps(line).encode() + b"\n" for line in (error, {"type": "end_of_execution"}))
    return None
