"""Our end of the channels of one kernel."""

from __future__ import annotations

import json
import logging
import os
from typing import TYPE_CHECKING, Any

import zmq
import zmq.asyncio
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.connect import write_connection_file
from jupyter_client.jsonutil import json_default

if TYPE_CHECKING:
    from pathlib import Path

_LOG = logging.getLogger(__name__)

_WAITING_MESSAGES = 16
"""Output messages read ahead of a slow client: few, because one can hold megabytes. The kernel waits."""
_RECONNECT_MS = 20
_REMEMBERED_SIGNATURES = 256


def zmq_context() -> zmq.asyncio.Context:
    """A ZeroMQ context with the settings that all sockets share."""
    context = zmq.asyncio.Context()
    context.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS)
    context.setsockopt(zmq.RCVHWM, _WAITING_MESSAGES)
    return context


def _pack(message: Any) -> bytes:
    """JSON in ASCII: code may hold lone surrogates, which have no UTF-8 form."""
    return json.dumps(message, default=json_default).encode("ascii")


class Connection:
    """Shell, iopub and control channel, and the file that tells the kernel about them (mode 0600: it holds the key)."""

    def __init__(self, context: zmq.asyncio.Context, file: Path, transport: str) -> None:
        self.file = file
        address = str(file.with_suffix("")) if transport == "ipc" else "127.0.0.1"
        key = os.urandom(32).hex().encode()
        _, info = write_connection_file(str(file), ip=address, key=key, transport=transport)
        self._client = AsyncKernelClient(context=context)
        self._client.load_connection_info(info)
        self._client.session.digest_history_size = _REMEMBERED_SIGNATURES
        self._client.session.pack = _pack
        self._client.start_channels(iopub=False, stdin=False, hb=False)

    def execute(self, code: str, *, silent: bool = False) -> str:
        """Ask for an execution without waiting; returns the request's id.

        Never `stop_on_error`: a kernel would drop the requests that queue behind a failed or interrupted one, the user's
        next cell among them.
        """
        content = {
            "code": code,
            "silent": silent,
            "store_history": not silent,
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": False,
        }
        return self._send(self._client.shell_channel, "execute_request", content)

    def ask_info(self) -> str:
        """Ask the kernel who it is; returns the request's id."""
        return self._send(self._client.shell_channel, "kernel_info_request", {})

    def control(self, msg_type: str, content: dict[str, Any]) -> None:
        """Send a request on the control channel, which the kernel reads even while a cell runs."""
        self._send(self._client.control_channel, msg_type, content)

    async def shell_message(self) -> dict[str, Any]:
        """The next reply on the shell channel."""
        return await self._next(self._client.shell_channel.socket)

    async def iopub_message(self) -> dict[str, Any]:
        """The next output or status message.

        The first call connects, when the kernel has answered on its shell channel.
        """
        return await self._next(self._client.iopub_channel.socket)

    def close(self) -> None:
        """Close the channels and remove the file."""
        self._client.stop_channels()
        self.file.unlink(missing_ok=True)
        for socket in self.file.parent.glob(self.file.stem + "-*"):
            socket.unlink(missing_ok=True)

    def _send(self, channel: Any, msg_type: str, content: dict[str, Any]) -> str:
        """Send a request, behind those sent before; returns its id.

        By the asyncio socket's own method: the client's methods write to the socket behind its back, which can swallow the wake-up
        for a reply that came just then (ZeroMQ's descriptor tells of a change once), and the reader waits for ever.
        """
        session = self._client.session
        message = session.msg(msg_type, content)
        channel.socket.send_multipart(session.serialize(message))
        return str(message["header"]["msg_id"])

    async def _next(self, socket: Any) -> dict[str, Any]:
        session = self._client.session
        while True:
            frames = await socket.recv_multipart()
            try:
                message: dict[str, Any] = session.deserialize(session.feed_identities(frames)[1])
            except (ValueError, TypeError) as problem:
                _LOG.warning("ignored a damaged message of a kernel: %s", problem)
            else:
                return message
