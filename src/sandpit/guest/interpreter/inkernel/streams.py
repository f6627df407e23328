"""Output that is never lost and never piles up: the user's code waits for a client that reads slowly."""

import contextlib
import importlib
import json
import sys
import threading
from typing import Any, Dict, List

_FLUSH_EVERY = 1 << 20
"""Characters written between two waits for the output to be handed over."""
_LONGEST_WRITE = 4 << 20
"""Characters of one message: every step on its way to the client holds a copy of it."""
_WAITING_MESSAGES = 16
"""Messages that the output socket holds for a slow reader (libzmq's default is 1000, and one can hold megabytes)."""
_FLUSH_SECONDS = 24 * 3600.0


def install(kernel: Any) -> None:
    """Make the output socket wait instead of dropping, the streams wait for the socket, and IPython keep no copy."""
    kernel.session.pack = _pack
    _keep_no_output(kernel.shell)
    events = kernel.shell.events

    def bound_streams() -> None:
        events.unregister("pre_execute", bound_streams)
        for stream in (sys.stdout, sys.stderr):
            _bound(stream)
        kernel.iopub_thread.schedule(lambda: _bound_socket(kernel.iopub_thread.socket))  # sockets belong to one thread

    # Not now, but when the next cell begins. This runs in a cell of IPython's, which puts the streams' own `write` back when
    # it ends; and a limit set after bind holds only for connections that exist, of which the service's comes later.
    events.register("pre_execute", bound_streams)


def _bound_socket(socket: Any) -> None:
    zmq = importlib.import_module("zmq")
    socket.setsockopt(zmq.XPUB_NODROP, 1)
    socket.setsockopt(zmq.SNDHWM, _WAITING_MESSAGES)


def _keep_no_output(shell: Any) -> None:
    """IPython 9 remembers for `%notebook` all that was ever printed or displayed, without a limit."""
    if hasattr(shell, "_tee"):
        shell._tee = lambda channel: contextlib.nullcontext()
    if hasattr(shell.history_manager, "outputs"):
        shell.history_manager.outputs = _Forgetful()


class _Forgetful(Dict[Any, Any]):
    """Takes whatever is appended to its lists, and keeps none of them."""

    def __missing__(self, _key: Any) -> List[Any]:
        return []


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
    """Let writers wait now and then until the output is handed over."""
    if not hasattr(stream, "flush_timeout"):
        return
    stream.flush_timeout = _FLUSH_SECONDS
    write, flush, written = stream.write, stream.flush, 0

    def flush_and_wait() -> None:
        thread = stream.pub_thread
        if thread is None or not thread.thread.is_alive() or thread.thread is threading.current_thread():
            flush()
            return
        # One change of threads and back, as in ipykernel itself. There the output thread says that it has made the message; here
        # that it has sent it, which it does next: so that word queues behind the sending.
        sent = threading.Event()
        thread.schedule(flush)
        thread.schedule(lambda: thread.schedule(sent.set))
        sent.wait(_FLUSH_SECONDS)

    def write_and_wait(text: str) -> Any:
        nonlocal written
        long = isinstance(text, str) and len(text) > _LONGEST_WRITE
        for at in range(0, len(text), _LONGEST_WRITE) if long else (0,):
            part = text[at : at + _LONGEST_WRITE] if long else text  # what is no text is refused by the stream
            write(part)
            written += len(part)
            if written >= _FLUSH_EVERY:
                written = 0
                flush_and_wait()
        return len(text)

    stream.write, stream.flush = write_and_wait, flush_and_wait
