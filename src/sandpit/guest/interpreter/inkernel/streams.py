"""Output that is never lost and never piles up: the user's code waits for a client that reads slowly."""

import importlib
import json
import sys
from typing import Any

_FLUSH_EVERY = 1 << 20
"""Characters written between two waits for the output to be handed over."""
_FLUSH_SECONDS = 24 * 3600.0


def install(kernel: Any) -> None:
    """Make the output socket wait instead of dropping, and the streams wait for the socket."""
    nodrop = importlib.import_module("zmq").XPUB_NODROP
    thread = kernel.iopub_thread
    getattr(thread, "socket", kernel.iopub_socket).setsockopt(nodrop, 1)
    kernel.session.pack = _pack
    for stream in (sys.stdout, sys.stderr):
        _bound(stream)


def _pack(message: Any) -> bytes:
    """JSON in ASCII: a lone surrogate in the user's text must not break the message."""
    try:
        return json.dumps(message, default=_plain, allow_nan=False).encode("ascii")
    except (TypeError, ValueError):
        return json.dumps(_clean(message), default=_plain, skipkeys=True).encode("ascii")


def _plain(value: Any) -> Any:
    try:
        return importlib.import_module("jupyter_client.session").json_default(value)
    except TypeError:
        return repr(value)


def _clean(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {key if isinstance(key, str) else str(key): _clean(item) for key, item in value.items()}
    return [_clean(item) for item in value] if isinstance(value, (list, tuple, set)) else value


def _bound(stream: Any) -> None:
    if not hasattr(stream, "flush_timeout"):
        return
    stream.flush_timeout = _FLUSH_SECONDS
    write, written = stream.write, 0

    def write_and_wait(text: str) -> Any:
        nonlocal written
        result = write(text)
        written += len(text)
        if written >= _FLUSH_EVERY:
            written = 0
            stream.flush()
        return result

    stream.write = write_and_wait
