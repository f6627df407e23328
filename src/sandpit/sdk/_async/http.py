"""Connections to the server: requests, streams, and what failed as the SDK's exceptions. The one module that uses httpx."""

from __future__ import annotations

import functools
import platform
import ssl
import time
from typing import TYPE_CHECKING, Any

import httpx

from sandpit import __version__
from sandpit.sdk import errors, wire
from sandpit.sdk._async._concurrency import abort, time_limit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from sandpit.sdk.config import Config
    from sandpit.sdk.wire import Json

_AGENT = f"sandpit-python/{__version__} python/{platform.python_version()}"
_LOOPBACK = ("all://127.0.0.1", "all://localhost", "all://[::1]")


class Http:
    """A pool of connections, for one sandbox or for a few calls."""

    def __init__(self, config: Config) -> None:
        self.config = config
        plain = all((url or "").startswith("http://") for url in (config.api_url, config.sandbox_url))
        self._client = httpx.AsyncClient(
            headers={"User-Agent": _AGENT, "Accept-Encoding": "identity"},
            verify=_no_authorities() if plain else _authorities(),
            # Servers close what is idle, uvicorn after 5 s; a request that meets that fails. So be earlier.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20, keepalive_expiry=3),
            mounts=dict.fromkeys(_LOOPBACK),  # a proxy of the environment is for the outside
        )

    async def aclose(self) -> None:
        await self._client.aclose()

    async def api(
        self, method: str, path: str, what: str, timeout: float | None, *, body: Any = None, query: Any = None
    ) -> httpx.Response:
        """Call the REST API. `what`: what is tried, in words. Raises: SandboxException."""
        request = self._client.build_request(
            method, self.config.api_url + path, json=body, params=query,
            headers={"X-API-KEY": self.config.api_key}, timeout=timeout,
        )  # fmt: skip
        response = await self.send(request, what, timeout)
        if response.status_code >= 300:
            raise wire.api_error(response.status_code, response.content, what)
        if response.content and "json" not in response.headers.get("content-type", ""):
            raise errors.SandboxException(
                f"{what}: {self.config.api_url} is no Sandpit server's API: its answer is no JSON", "see E2B_API_URL"
            )
        return response

    def request(
        self, method: str, url: str, timeout: float | None, headers: Mapping[str, str], **content: Any
    ) -> httpx.Request:
        """A request for `send` or `stream`."""
        return self._client.build_request(method, url, timeout=timeout, headers=dict(headers), **content)

    async def send(self, request: httpx.Request, what: str, timeout: float | None) -> httpx.Response:
        """Send, and read the answer whole. Raises: TimeoutException, ServerUnreachableException."""
        started = time.monotonic()
        try:
            async with time_limit(timeout):
                response = await self._client.send(request, stream=True)
                try:
                    left = None if timeout is None else timeout - (time.monotonic() - started)
                    async with time_limit(left, response if _is_long(response) else None):
                        await response.aread()
                finally:
                    await response.aclose()
        except (TimeoutError, httpx.TransportError) as error:
            raise failure(error, what, timeout, str(request.url)) from error
        return response

    async def stream(self, request: httpx.Request, what: str, timeout: float | None) -> httpx.Response:
        """Send, and return when the answer begins; the caller closes it. Raises: as `send`."""
        try:
            async with time_limit(timeout):
                return await self._client.send(request, stream=True)
        except (TimeoutError, httpx.TransportError) as error:
            raise failure(error, what, timeout, str(request.url)) from error


class Stream:
    """The messages of an answer that goes on: of a Connect stream, or one JSON object per line."""

    def __init__(self, response: httpx.Response, decoder: wire.Envelopes | wire.JsonLines, what: str) -> None:
        self._response, self._decoder, self._what = response, decoder, what
        self._chunks = response.aiter_raw()
        self._ready: list[Json] = []

    @property
    def end(self) -> Json | None:
        """How a Connect stream ended; None if it broke off."""
        return self._decoder.end if isinstance(self._decoder, wire.Envelopes) else None

    @property
    def response(self) -> httpx.Response:
        return self._response

    async def receive(self) -> Json | None:
        """The next message, None after the last one. Raises: ServerUnreachableException: it broke off."""
        while not self._ready:
            try:
                chunk = await anext(self._chunks, None)
            except (TimeoutError, httpx.TransportError) as error:
                raise failure(error, self._what, None, str(self._response.url)) from error
            if chunk is None:
                return None
            self._ready += self._decoder.feed(chunk)
        return self._ready.pop(0)

    async def receive_within(self, timeout: float | None) -> Json | None:
        """The same, at most `timeout` seconds. Raises: TimeoutException, ServerUnreachableException."""
        try:
            async with time_limit(timeout, self._response):
                return await self.receive()
        except TimeoutError as error:
            raise failure(TimeoutError(), self._what, timeout, str(self._response.url)) from error

    def interrupt(self) -> None:
        """Let `receive` fail in another thread."""
        abort(self._response)

    async def aclose(self) -> None:
        await self._response.aclose()


async def chunks(response: httpx.Response, what: str) -> AsyncIterator[bytes]:
    """The body in pieces; the answer is closed at the end."""
    try:
        async for chunk in response.aiter_raw():
            yield chunk
    except httpx.TransportError as error:
        raise failure(error, what, None, str(response.url)) from error
    finally:
        await response.aclose()


async def read(response: httpx.Response, what: str) -> bytes:
    """The whole body of a streamed answer, which is closed then."""
    try:
        return await response.aread()
    except httpx.TransportError as error:
        raise failure(error, what, None, str(response.url)) from error
    finally:
        await response.aclose()


def failure(error: Exception, what: str, timeout: float | None, url: str) -> errors.SandboxException:
    """What httpx raises, in the SDK's words."""
    if isinstance(error, TimeoutError | httpx.TimeoutException):
        limit = "its time limit" if timeout is None else f"{timeout:g} s"
        return errors.TimeoutException(
            f"{what}: no answer within {limit}", "give a larger timeout, or None for no limit"
        )
    origin = str(httpx.URL(url).copy_with(path="/", query=None))
    if isinstance(error, httpx.ConnectError):
        return errors.ServerUnreachableException(
            f"{what}: cannot connect to {origin}: {error}",
            "`sandpit status` says whether the server runs, `sandpit env` where; see E2B_API_URL and E2B_SANDBOX_URL",
        )
    return errors.ServerUnreachableException(f"{what}: the connection to {origin} broke off: {error}")


def _is_long(response: httpx.Response) -> bool:
    """Whether reading an answer may take longer than waiting for its first byte: small ones need no watchman."""
    length = response.headers.get("content-length", "")
    return not length.isdigit() or int(length) > 1 << 20


@functools.cache
def _authorities() -> ssl.SSLContext:
    return httpx.create_ssl_context()


@functools.cache
def _no_authorities() -> ssl.SSLContext:
    """For plain HTTP: loading the authorities takes 10 ms and more. It trusts nobody."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
