# Generated from _async/link.py by scripts/make_sync: change that one.
"""The way into one sandbox: calls of its daemon and its interpreter (current-protocol 4 and 7)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from sandpit.protocol import ports
from sandpit.sdk import errors, wire
from sandpit.sdk._sync.http import Http, Stream, chunks, read

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterator, Mapping

    import httpx

    from sandpit.sdk.wire import Json

_PING_SECONDS = 20
_SILENCE_SECONDS = 75.0
"""A stream that should be pinged every 20 s and is silent for so long has lost its sandbox."""
_GONE = "was not found"
_ENDED = "The sandbox ended: "
_ENDED_HINT = "Sandbox.reconnect(id) resumes a paused one; keep_alive() and set_timeout() let one live longer"


class Stoppable(Protocol):
    """Background work."""

    def stop(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Identity:
    """What create and connect answer (current-protocol 3.2)."""

    sandbox_id: str
    template_id: str
    access_token: str | None = field(repr=False)
    traffic_token: str | None = field(repr=False)
    domain: str | None

    @classmethod
    def parse(cls, raw: Json) -> Identity:
        return cls(
            raw["sandboxID"],
            raw["templateID"],
            raw.get("envdAccessToken"),
            raw.get("trafficAccessToken"),
            raw.get("domain"),
        )


class Link:
    """Calls into one sandbox, until it is closed."""

    def __init__(self, http: Http, identity: Identity, logger: logging.Logger) -> None:
        self.http, self.identity, self.logger = http, identity, logger
        self.is_open = True
        self.background: set[Stoppable] = set()
        """What runs beside the caller and ends with this object."""

    def close(self) -> None:
        """Stop the background work and close all connections. Calls raise SandboxNotOpenException from now on."""
        self.is_open = False
        for work in list(self.background):
            work.stop()
        self.http.close()

    def request(
        self, method: str, port: int, path: str, timeout: float | None, headers: Mapping[str, str], **content: Any
    ) -> httpx.Request:
        """A request to a port of the sandbox. Raises: SandboxNotOpenException."""
        if not self.is_open:
            raise errors.SandboxNotOpenException(
                f"sandbox {self.identity.sandbox_id} was closed by this program",
                "use it inside its `with` block, or get it back with Sandbox.reconnect(sandbox_id)",
            )
        identity = self.identity
        routing = {"E2b-Sandbox-Id": identity.sandbox_id, "E2b-Sandbox-Port": str(port)}
        if identity.access_token is not None:
            routing["X-Access-Token"] = identity.access_token
        if identity.traffic_token is not None:
            routing["E2b-Traffic-Access-Token"] = identity.traffic_token
        base = self.http.config.port_url(identity.sandbox_id, port, identity.domain)
        return self.http.request(method, base + path, timeout, {**routing, **headers}, **content)

    def rpc(
        self, method: str, message: Json, raises: type[errors.SandboxException], timeout: float | None,
        user: str | None = None,
    ) -> Json:  # fmt: skip
        """Call a unary method, `filesystem.Filesystem/Stat` and the like. Raises: `raises`, SandboxException."""
        self.logger.debug("%s %s", method, self.identity.sandbox_id)
        headers = {"Connect-Protocol-Version": "1", **wire.basic_user(user)}
        request = self.request("POST", ports.AGENT, f"/{method}", timeout, headers, json=message)
        response = self.http.send(request, method, timeout)
        self.check(response.status_code, response.content, raises)
        return wire.parsed(response.content)

    def open_rpc(
        self, method: str, message: Json, raises: type[errors.SandboxException], timeout: float | None,
        user: str | None = None, life: float | None = None,
    ) -> tuple[Json, Stream]:  # fmt: skip
        """Call a server-streaming method; returns its first message and the rest. `life`: what the server allows it.

        Raises: as `rpc`.
        """
        self.logger.debug("%s %s", method, self.identity.sandbox_id)
        headers = {
            "Content-Type": "application/connect+json",
            "Connection": "close",  # it may be cut at any time: no other call may come to use it
            "Connect-Protocol-Version": "1",
            "Keepalive-Ping-Interval": str(_PING_SECONDS),
            **wire.basic_user(user),
        }
        if life is not None:
            headers["Connect-Timeout-Ms"] = str(max(1, round(life * 1000)))
        body = wire.envelope(message)
        request = self.request("POST", ports.AGENT, f"/{method}", timeout, headers, content=body)
        return self._first(request, method, raises, timeout)

    def _first(
        self, request: httpx.Request, method: str, raises: type[errors.SandboxException], timeout: float | None
    ) -> tuple[Json, Stream]:
        response = self.http.stream(request, method, timeout)
        request.extensions["timeout"]["read"] = _SILENCE_SECONDS  # the answer has begun: from here on it may be quiet
        stream = Stream(response, wire.Envelopes(), method)
        try:
            if response.status_code != 200:
                body = read(response, method)
                self.check(response.status_code, body, raises)
            first = stream.receive_within(timeout)
            if first is None:
                self.check_end(stream, raises)
                raise errors.ServerUnreachableException(f"{method}: the stream ended before it began")
        except BaseException:
            stream.close()
            raise
        return first, stream

    def check(self, status: int, body: bytes, raises: type[errors.SandboxException]) -> None:
        """Raise what a failed answer says."""
        if status < 300:
            return
        code, message = wire.answer_code(status, body)
        if status == 502 and _GONE in message:
            raise self.gone(message)
        if status == 507:
            raise errors.NotEnoughSpaceException(
                message, "remove files in the sandbox, or use a template with a larger disk"
            )
        raise wire.rpc_error(raises, code, message)

    def check_end(self, stream: Stream, raises: type[errors.SandboxException]) -> None:
        """Raise the error that a finished stream ended with, if any."""
        error = (stream.end or {}).get("error")
        if error is None:
            return
        code, message = error.get("code", "unknown"), error.get("message", "")
        if (code == "unavailable" and _GONE in message) or message.startswith(_ENDED):
            raise self.gone(message)
        raise wire.rpc_error(raises, code, message or code)

    def why_broken(self, error: errors.SandboxException) -> errors.SandboxException:
        """What a stream that broke off means: the sandbox has ended, or just the connection has (current-protocol 4.6)."""
        if not self.is_open:
            return errors.SandboxNotOpenException(f"sandbox {self.identity.sandbox_id} was closed by this program")
        try:
            request = self.request("GET", ports.AGENT, "/health", 5, {})
            response = self.http.send(request, "health", 5)
        except errors.SandboxException:
            return error
        _, message = wire.answer_code(response.status_code, response.content)
        return self.gone(message) if response.status_code == 502 else error

    def gone(self, message: str = "") -> errors.SandboxNotFoundException:
        """`message` is the server's, which says why one ended on its own."""
        name = f"sandbox {self.identity.sandbox_id}"
        if not message.startswith(_ENDED):
            return errors.SandboxNotFoundException(f"{name} has ended or is paused", _ENDED_HINT)
        why = message.removeprefix(_ENDED).removesuffix(f". It {_GONE}").strip()
        return errors.SandboxNotFoundException(f"{name} has ended: {why}")

    def download(self, path: str, user: str | None, timeout: float | None) -> bytes:
        """The bytes of a file. Raises: FileNotFoundException, FilesystemException."""
        request = self.request("GET", ports.AGENT, "/files", timeout, {}, params=_file(path, user))
        response = self.http.send(request, f"read {path}", timeout)
        self.check(response.status_code, response.content, errors.FilesystemException)
        return response.content

    def download_chunks(self, path: str, user: str | None, timeout: float | None) -> Iterator[bytes]:
        """The bytes of a file in pieces; `timeout` limits the wait for each. Raises: as `download`."""
        request = self.request("GET", ports.AGENT, "/files", timeout, {}, params=_file(path, user))
        response = self.http.stream(request, f"read {path}", timeout)
        if response.status_code >= 300:
            body = read(response, f"read {path}")
            self.check(response.status_code, body, errors.FilesystemException)
        return chunks(response, f"read {path}")

    def upload(self, path: str, content: Any, user: str | None, timeout: float | None) -> Json:
        """Write a file, and make its directories. `content`: bytes or an iterable of them. Raises: FilesystemException."""
        headers = {"Content-Type": "application/octet-stream"}
        request = self.request(
            "POST", ports.AGENT, "/files", timeout, headers, params=_file(path, user), content=content
        )
        response = self.http.send(request, f"write {path}", timeout)
        self.check(response.status_code, response.content, errors.FilesystemException)
        written: list[Json] = response.json()
        return written[0]


def _file(path: str, user: str | None) -> dict[str, str]:
    return {"path": path} if user is None else {"path": path, "username": user}
