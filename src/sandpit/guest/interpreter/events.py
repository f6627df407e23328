"""The lines of an execution's answer: from kernel messages to NDJSON (code-interpreter 2.5, 2.7)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Protocol

Message = Mapping[str, Any]


class Render(Protocol):
    """Makes the lines of an outbox from a kernel's output message, as `parts` does."""

    def __call__(self, message: Message, *, uncounted: int = 0, newline_apart: bool = False) -> list[bytes]: ...


_FIELDS = {
    "text/plain": "text",
    "text/html": "html",
    "text/markdown": "markdown",
    "image/svg+xml": "svg",
    "image/png": "png",
    "image/jpeg": "jpeg",
    "application/pdf": "pdf",
    "text/latex": "latex",
    "application/json": "json",
    "application/javascript": "javascript",
    "e2b/data": "data",
    "e2b/chart": "chart",
}
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_BASE64 = {"png", "jpeg", "pdf"}


def encode(event: Mapping[str, Any]) -> bytes:
    """One line: ASCII only, because clients split on Unicode line ends and between bytes of a character (2.15)."""
    try:
        text = json.dumps(event, allow_nan=False, separators=(",", ":"))
    except ValueError:  # NaN and infinity are not JSON: JavaScript clients refuse the whole line
        text = json.dumps(_finite(event), separators=(",", ":"))
    return text.encode("ascii") + b"\n"


def error(name: str, value: str, traceback: str = "") -> bytes:
    """An `error` line; all three fields are always there."""
    return encode({"type": "error", "name": name, "value": value, "traceback": traceback})


KEEPALIVE = encode({"type": "keepalive"})
END = encode({"type": "end_of_execution"})
RESTARTED = error("ContextRestarting", "Context was restarted")
OUT_OF_MEMORY = error(
    "OutOfMemory", "The sandbox ran out of memory, and the kernel of this context was killed. Context was restarted"
)
CLOSED = error("UnexpectedEndOfExecution", "Connection to the execution was closed before the execution was finished")
ABORTED = error("ExecutionAborted", "The kernel dropped the execution before it ran; run it again")


def line_of(message: Message) -> bytes | None:
    """The line for a kernel's output message, None if clients are not told about it (clear_output, updates, comms)."""
    make = _MAKERS.get(message["msg_type"])
    return make(message) if make else None


def parts(message: Message, *, uncounted: int = 0, newline_apart: bool = False) -> list[bytes]:
    """The lines for a kernel's output message.

    `uncounted`: taken off the count of executions. `newline_apart`: text and the newline at its end are two events.
    """
    content = message["content"]
    texts = [message]
    if message["msg_type"] == "execute_input" and uncounted:
        texts = [{**message, "content": {**content, "execution_count": content["execution_count"] - uncounted}}]
    elif message["msg_type"] == "stream" and newline_apart and content["text"].rstrip("\n"):
        text = content["text"].removesuffix("\n")
        ends = (text, "\n") if text != content["text"] else (text,)
        texts = [{**message, "content": {**content, "text": one}} for one in ends]
    return [line for one in texts if (line := line_of(one))]


def _stream(message: Message) -> bytes:
    content = message["content"]
    kind = "stderr" if content.get("name") == "stderr" else "stdout"
    return encode({"type": kind, "text": content.get("text", ""), "timestamp": _timestamp(message)})


def _count(message: Message) -> bytes:
    return encode({"type": "number_of_executions", "execution_count": message["content"].get("execution_count", 0)})


def _error(message: Message) -> bytes:
    content = message["content"]
    traceback = "".join(str(frame) for frame in content.get("traceback") or ())
    return error(str(content.get("ename", "")), str(content.get("evalue", "")), _COLOUR.sub("", traceback))


def _display(message: Message) -> bytes:
    return _result(message, main=False)


def _main_result(message: Message) -> bytes:
    return _result(message, main=True)


def _result(message: Message, *, main: bool) -> bytes:
    bundle = message["content"].get("data") or {}
    event: dict[str, Any] = {"type": "result"}
    extra = {}
    for mime, value in bundle.items():
        field = _FIELDS.get(mime)
        if field is None:
            extra[mime] = value
        elif field == "text":
            event[field] = unquote(_joined(value))
        elif field in _BASE64:
            event[field] = _joined(value).replace("\n", "")
        else:
            event[field] = value if field in {"json", "data", "chart"} else _joined(value)
    event["extra"] = extra
    event["is_main_result"] = main
    return encode(event)


def unquote(text: str) -> str:
    """The text of a value without the quotes of a string literal, which is how clients expect string results (2.7)."""
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1] if quoted else text


def _joined(value: Any) -> str:
    """Text of a MIME value; the message specification also allows a list of lines."""
    return "".join(map(str, value)) if isinstance(value, list) else str(value)


def _timestamp(message: Message) -> str:
    date = message["header"].get("date")
    return date.isoformat() if isinstance(date, datetime) else str(date)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list) else value


_MAKERS: dict[str, Callable[[Message], bytes]] = {
    "stream": _stream,
    "execute_input": _count,
    "error": _error,
    "display_data": _display,
    "execute_result": _main_result,
}
