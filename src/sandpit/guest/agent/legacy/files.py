"""The route /file: uploads as forms, downloads by path (legacy-protocol 4)."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, QueryParams
from starlette.responses import PlainTextResponse, Response

from sandpit.guest.agent.accounts import Account, resolve_path
from sandpit.guest.agent.files.download import send_file
from sandpit.guest.agent.files.error import FileError
from sandpit.guest.agent.files.upload import pump
from sandpit.guest.agent.legacy.form import FormSink
from sandpit.guest.agent.legacy.shells import owner

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

    from sandpit.guest.agent.control.state import AgentState

_METHODS = "GET, HEAD, POST"


class Files:
    """An ASGI application. Answers are plain text; files belong to the default user."""

    def __init__(self, state: AgentState) -> None:
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = scope["method"]
        try:
            if method == "POST":
                answer = await self._upload(scope, receive)
                if answer is None:
                    return
            elif method in ("GET", "HEAD"):
                await self._download(scope, receive, send)
                return
            else:
                answer = PlainTextResponse("Method not allowed", 405, {"Allow": _METHODS})
        except FileError as error:
            answer = PlainTextResponse(error.message, error.status)
        await answer(scope, receive, send)

    async def _upload(self, scope: Scope, receive: Receive) -> Response | None:
        """Raises: FileError. None when the client left."""
        account = owner(self._state)
        sink = FormSink(Headers(scope=scope), account, lambda path: self._resolve(path, account))
        finished = False
        try:
            if not await pump(receive, sink):
                return None
            await asyncio.to_thread(sink.finish)
            finished = True
        except FileError as error:
            # In 2024 all that goes wrong with the file itself was the server's fault.
            raise FileError(400 if error.status == 400 and sink.is_form_error else 500, error.message) from None
        finally:
            if not finished:
                await asyncio.shield(asyncio.to_thread(sink.abort))
        return Response(status_code=200)

    async def _download(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = QueryParams(scope["query_string"]).get("path", "")
        if not given:
            raise FileError(400, "File path is required")
        path = self._resolve(given, owner(self._state))

        async def send_attachment(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [_attached(name, value) for name, value in message["headers"]]
            await send(message)

        try:
            await send_file(path, Headers(scope=scope), receive, send_attachment, head=scope["method"] == "HEAD")
        except FileError as error:
            if error.status == 404:
                raise FileError(404, f"File not found: open {given}: no such file or directory") from None
            raise FileError(500, f"Failed to open file: {error.message}") from None

    def _resolve(self, path: str, account: Account) -> str:
        """Raises: FileError 400 for what cannot be a path."""
        resolved = resolve_path(path, account, self._state.default_workdir)
        try:
            if b"\0" in os.fsencode(resolved):
                raise FileError(400, "path contains characters that no file name can have")
        except UnicodeEncodeError:
            raise FileError(400, "path contains characters that no file name can have") from None
        return resolved


def _attached(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    return name, value.replace(b"inline;", b"attachment;", 1) if name == b"content-disposition" else value
