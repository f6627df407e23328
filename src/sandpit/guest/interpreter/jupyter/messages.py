"""Kernel messages in the form that Jupyter Server sends to its clients (legacy-protocol 5.3)."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from sandpit.guest.interpreter import events

Message = dict[str, Any]
_VERSION = "5.3"
_OURS = ("e2b/data", "e2b/chart")
"""Formats that the kernel makes for later clients."""


def render(message: Mapping[str, Any], *, uncounted: int = 0, newline_apart: bool = False) -> list[bytes]:
    """The line by which a kernel's message passes an outbox; `newline_apart` is for others."""
    del newline_apart
    content = dict(message["content"])
    if message["msg_type"] == "execute_input" and uncounted:
        content["execution_count"] -= uncounted
    if isinstance(content.get("data"), Mapping):
        content["data"] = {kind: value for kind, value in content["data"].items() if kind not in _OURS}
    carried = {"msg_type": message["msg_type"], "content": content, "metadata": message.get("metadata") or {}}
    return [events.encode({"type": "jupyter", "message": carried})]


class Conversation:
    """All that is sent about one request."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        """`request` is the header of the client's message."""
        self._parent = dict(request)
        self._session = str(request.get("session") or uuid.uuid4())
        self._count: int | None = None
        self._error: Message | None = None

    def busy(self) -> Message:
        """The kernel begins."""
        return self._message("status", {"execution_state": "busy"})

    def messages(self, line: Mapping[str, Any]) -> Iterator[Message]:
        """What one line of the outbox means to the client."""
        if line["type"] == "jupyter":
            carried = line["message"]
            if carried["msg_type"] == "execute_input":
                self._count = carried["content"].get("execution_count")
            elif carried["msg_type"] == "error":
                self._error = carried["content"]
            yield self._message(carried["msg_type"], carried["content"], carried["metadata"])
        elif line["type"] == "error":  # not the kernel's words but ours: it died, or does not start
            trace = str(line["traceback"])
            content = {"ename": line["name"], "evalue": line["value"], "traceback": [trace] if trace else []}
            yield from self._accept()
            self._error = content
            yield self._message("error", content)

    def end(self) -> Iterator[Message]:
        """The kernel is done."""
        yield from self._accept()
        status = {"status": "ok", "payload": [], "user_expressions": {}}
        if self._error is not None:
            status = {"status": "error", **self._error}
        reply = self._message("execute_reply", status | {"execution_count": self._count})
        yield reply | {"channel": "shell"}
        yield self._message("status", {"execution_state": "idle"})

    def _accept(self) -> Iterator[Message]:
        """Clients wait for ever for the end of a cell that was not accepted."""
        if self._count is None:
            self._count = 0
            yield self._message("execute_input", {"code": "", "execution_count": 0})

    def _message(self, kind: str, content: Mapping[str, Any], metadata: Mapping[str, Any] | None = None) -> Message:
        identity = str(uuid.uuid4())
        header = {
            "msg_id": identity,
            "msg_type": kind,
            "username": "kernel",
            "session": self._session,
            "date": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            "version": _VERSION,
        }
        return {
            "header": header,
            "msg_id": identity,
            "msg_type": kind,
            "parent_header": self._parent,
            "metadata": metadata or {},
            "content": content,
            "buffers": [],
            "channel": "iopub",
        }
