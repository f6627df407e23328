"""One client's channels of a kernel: cells in, the kernel's own messages out (legacy-protocol 5.3)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from typing import TYPE_CHECKING, Any

from starlette.websockets import WebSocketDisconnect

from sandpit.guest.interpreter.contexts import Cell
from sandpit.guest.interpreter.jupyter import messages

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

    from sandpit.guest.interpreter.contexts import Context

_LOG = logging.getLogger(__name__)


class Channels:
    """Cells run in the context's queue, behind those of other clients. A client that goes leaves its cells running."""

    def __init__(self, socket: WebSocket, context: Context) -> None:
        self._socket, self._context = socket, context
        self._cells: dict[asyncio.Task[None], Cell] = {}

    async def serve(self) -> None:
        """Answer until the client goes."""
        try:
            while True:
                self._take(await self._socket.receive_text())
        except (WebSocketDisconnect, KeyError):  # KeyError: a binary message
            pass
        finally:
            for task, cell in self._cells.items():
                cell.outbox.discard()
                task.cancel()

    def _take(self, text: str) -> None:
        try:
            message = json.loads(text)
            header, content = message["header"], message["content"]
            kind, code = header["msg_type"], content.get("code")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            _LOG.warning("ignored a message that is none of Jupyter's")
            return
        if kind != "execute_request" or not isinstance(code, str):
            _LOG.info("ignored a request of type %s", kind)
            return
        cell = Cell(code, silent=content.get("silent") is True, render=messages.render)
        self._context.submit(cell)
        task = asyncio.create_task(self._report(cell, messages.Conversation(header)))
        self._cells[task] = cell
        task.add_done_callback(self._cells.pop)

    async def _report(self, cell: Cell, conversation: messages.Conversation) -> None:
        """Send what the cell brings forth. Clients take its end, `idle`, as the end of everything: it comes last."""
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            await self._send(conversation.busy())
            while lines := await cell.outbox.take():
                for line in lines.splitlines():
                    for message in conversation.messages(json.loads(line)):
                        await self._send(message)
            for message in conversation.end():
                await self._send(message)

    async def _send(self, message: dict[str, Any]) -> None:
        await self._socket.send_text(json.dumps(message))
