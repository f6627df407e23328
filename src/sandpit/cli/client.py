"""The REST API, as far as the commands need it. Without a package for it: half of a command's time would be its import."""

from __future__ import annotations

import contextlib
import http.client
import json
from typing import Any, Self
from urllib.parse import quote, urlencode, urlsplit

from sandpit import __version__
from sandpit.cli.accounts import account as accounts
from sandpit.cli.accounts.account import Account
from sandpit.cli.errors import CliError

Json = dict[str, Any]
USER_AGENT = f"sandpit-cli/{__version__}"
_PAGE = 100
_SECONDS = 120.0
_STALE = (ConnectionResetError, BrokenPipeError, http.client.RemoteDisconnected)


class Api:
    """A server's REST API. Use it as a context manager."""

    def __init__(self, account: Account | None = None) -> None:
        """Raises: CliError: no server is known, or its address is none."""
        self.account = account or accounts.find()
        self._prefix, self._connection = _open(self.account.api_url)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def call(self, method: str, path: str, body: Json | None = None, **query: str | int | None) -> Any:
        """The JSON answer, None without one. Raises: CliError."""
        return self._call(method, path, body, query)[0]

    def _call(self, method: str, path: str, body: Json | None, query: dict[str, Any]) -> tuple[Any, Any]:
        given = urlencode({name: value for name, value in query.items() if value is not None})
        try:
            answer, content = self._exchange(
                method, f"{self._prefix}{path}?{given}" if given else f"{self._prefix}{path}", body
            )
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise unreachable(self.account.api_url, error, timed_out=isinstance(error, TimeoutError)) from None
        if answer.status >= 400:
            raise _refused(answer.status, content, self.account)
        try:
            return (json.loads(content) if content else None), answer.headers
        except ValueError:
            raise CliError(f"{self.account.api_url} answers, but not as Sandpit does", "check the address") from None

    def _exchange(self, method: str, target: str, body: Json | None) -> tuple[http.client.HTTPResponse, bytes]:
        headers = {"X-API-Key": self.account.api_key, "User-Agent": USER_AGENT}
        data = None
        if body is not None:
            data, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        reused = self._connection.sock is not None
        try:
            self._connection.request(method, target, data, headers)
            answer = self._connection.getresponse()
        except _STALE:
            if not reused:
                raise
            self._connection.close()  # the server had closed it meanwhile, and has not seen the request
            self._connection.request(method, target, data, headers)
            answer = self._connection.getresponse()
        return answer, answer.read()

    def sandbox(self, sandbox_id: str) -> Json:
        """A running or paused sandbox. Raises: CliError (status 404: there is none)."""
        found: Json = self.call("GET", path_of(sandbox_id))
        return found

    def sandboxes(self, *, limit: int = 0, **query: str | None) -> list[Json]:
        """All that match, page by page; at most `limit` if that is not 0. Raises: CliError."""
        found: list[Json] = []
        token: str | None = None
        while True:
            size = min(_PAGE, limit - len(found)) if limit else _PAGE
            page, headers = self._call("GET", "/v2/sandboxes", None, {**query, "limit": size, "nextToken": token})
            found += page
            token = headers.get("x-next-token")
            if token is None or (limit and len(found) >= limit):
                return found

    def connect(self, sandbox_id: str, timeout: int) -> Json:
        """Have a sandbox live `timeout` seconds more at least, resumed if it was paused. Raises: CliError."""
        answer: Json = self.call("POST", f"/v2{path_of(sandbox_id)}/connect", {"timeout": timeout})
        return answer


def path_of(sandbox_id: str) -> str:
    """A sandbox's path in the API; the id may have a client's suffix, as in 2024."""
    return f"/sandboxes/{quote(sandbox_id, safe='')}"


def _open(url: str) -> tuple[str, http.client.HTTPConnection]:
    """The path before all paths, and a connection that is made with the first request. Raises: CliError."""
    try:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("it must begin with http:// or https:// and a host")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        return parts.path.rstrip("/"), kind(parts.hostname, parts.port, timeout=_SECONDS)
    except (ValueError, http.client.InvalidURL) as error:
        raise CliError(f"{url!r} is no address of a server: {error}", "give one like http://host:3000") from None


def unreachable(url: str, error: Exception, *, timed_out: bool) -> CliError:
    """What to say when there is no answer."""
    if timed_out:
        return CliError(f"{url} did not answer in time", "try again; `sandpit status` tells how the server is")
    return CliError(f"{url} cannot be reached: {error}", "is the server running? See `sandpit status` there")


def _refused(status: int, content: bytes, account: Account) -> CliError:
    """What the API says, with a hint for what users can mend."""
    message = f"the server answered {status}"
    with contextlib.suppress(ValueError, KeyError, TypeError):
        message = str(json.loads(content)["message"])
    hints = {
        401: f"the key comes from {account.source}; `sandpit auth login` stores another",
        404: "`sandpit sandbox list --state running,paused` shows what there is",
        429: "wait for other sandboxes to end, or kill some",
        503: "try again in a moment",
    }
    error = CliError(message, hints.get(status, ""))
    error.code = status
    return error
