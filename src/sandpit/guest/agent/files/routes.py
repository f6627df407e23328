"""Downloads and uploads: `/files` (current-protocol 7.1, 7.2 and 1.8)."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, QueryParams
from starlette.routing import Route

from sandpit.guest.agent.accounts import Account, UnknownAccountError, find_account, resolve_path
from sandpit.guest.agent.connect import basic_user
from sandpit.guest.agent.connect_wire import ConnectError
from sandpit.guest.agent.control import memory
from sandpit.guest.agent.control.guard import token_matches
from sandpit.guest.agent.files.download import send_file
from sandpit.guest.agent.files.error import FileError
from sandpit.guest.agent.files.upload import receive_files
from sandpit.protocol import links

if TYPE_CHECKING:
    from starlette.routing import BaseRoute
    from starlette.types import Receive, Scope, Send

    from sandpit.guest.agent.control.state import AgentState

_REFUSALS = {
    "missing": "missing signature query parameter",
    "invalid": "invalid signature",
    "expired": "signature is already expired",
}
"""The official agent's words."""


def routes(state: AgentState) -> list[BaseRoute]:
    """The routes of `/files`. They check token or signature themselves: a signed link carries no token."""
    memory.keep_buffers()
    return [Route("/files", _Files(state), methods=["GET", "POST"])]


@dataclass(slots=True)
class _Files:
    state: AgentState

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        query = QueryParams(scope["query_string"])
        writes = scope["method"] == "POST"
        try:
            account = self._authorize(headers, query, "write" if writes else "read")
            given = query.get("path", "")
            path = self._resolve(given, account)
            if not writes:
                await send_file(path, headers, receive, send, head=scope["method"] == "HEAD")
                self.state.journal.add("filesystem", "debug", "file read", path=path, user=account.name)
                return
            answer = await receive_files(
                path if given else None, account, headers, receive, lambda name: self._resolve(name, account)
            )
        except FileError as error:
            await _answer(send, error.status, {"code": error.status, "message": error.message}, error.headers)
            return
        if answer is not None:
            for item in answer:
                self.state.journal.add("filesystem", "info", "file written", path=str(item["path"]), user=account.name)
            await _answer(send, 200, answer)

    def _authorize(self, headers: Headers, query: QueryParams, operation: links.Operation) -> Account:
        """The user for whom the request may work. Raises: FileError 401."""
        named = query.get("username", "")
        signed = self._check(headers, query, operation, named)
        try:
            # A link's signature covers the user in the query; a header next to it would be anybody's.
            user = named or (None if signed else basic_user(headers.get("authorization")))
            return find_account(user or self.state.default_user)
        except UnknownAccountError as error:
            raise FileError(401, str(error)) from None
        except ConnectError as error:
            raise FileError(401, error.message) from None

    def _check(self, headers: Headers, query: QueryParams, operation: links.Operation, user: str) -> bool:
        """Whether a signature opened the path, rather than the token. Raises: FileError 401."""
        token = self.state.access_token
        if token is None:
            return False
        tokens = headers.getlist("x-access-token")
        if tokens:
            if len(tokens) > 1 or not token_matches(self.state, tokens[0]):
                raise FileError(401, "access token present in header but does not match")
            return False
        for name in links.FIELDS:
            if len(query.getlist(name)) > 1:
                raise FileError(400, f"query parameter '{name}' is given twice")
        signature, expiration = query.get("signature", ""), query.get("signature_expiration")
        verdict = links.Link(query.get("path", ""), user, signature, expiration).judge(token, operation)
        if verdict != "opens":
            raise FileError(401, _REFUSALS[verdict])
        return True

    def _resolve(self, path: str, account: Account) -> str:
        """Raises: FileError 400 for what cannot be a path."""
        resolved = resolve_path(path, account, self.state.default_workdir)
        try:
            raw = os.fsencode(resolved)
        except UnicodeEncodeError:
            raw = b"\0"
        if b"\0" in raw:
            raise FileError(400, "path contains characters that no file name can have")
        return resolved


async def _answer(send: Send, status: int, content: object, extra: tuple[tuple[bytes, bytes], ...] = ()) -> None:
    body = json.dumps(content, separators=(",", ":")).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *extra]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
