"""Connections to the servers in sandboxes: how they are made, and kept for the next request."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

from sandpit.protocol import ports

if TYPE_CHECKING:
    from collections.abc import Callable

    from .limits import Limits

_RELAY_OPEN = b"+"


class Key(NamedTuple):
    """What makes connections interchangeable."""

    sandbox_id: str
    address: str
    port: int
    tls: bool = False
    relay: bool = False
    """Whether the relay may be asked when the port refuses."""


class PortClosedError(Exception):
    """Nothing listens on the port, on any of the sandbox's interfaces."""


class User(Protocol):
    """Who uses an upstream connection right now."""

    def upstream_data(self, data: bytes) -> None: ...
    def upstream_eof(self) -> bool:
        """The server will send no more; true keeps our direction open."""

    def upstream_lost(self, error: Exception | None) -> None: ...
    def upstream_writable(self) -> None:
        """`Upstream.congested` changed."""


class Upstream(asyncio.Protocol):
    """One connection to a server."""

    transport: asyncio.Transport

    def __init__(self, key: Key, limits: Limits) -> None:
        self.key = key
        self.user: User | None = None
        self.congested = False
        self.stalled = float("inf")
        """Since when the server has taken too little of what waits for it (event loop time)."""
        self.reused = False
        self.closed = False
        self.idle_since = 0.0
        self.on_closed: Callable[[], None] | None = None
        self._limits = limits
        self._greeting: asyncio.Future[bytes] | None = None
        self._reading = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.adopt(cast("asyncio.Transport", transport))  # uvloop's do not inherit from it
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, self._limits.unsent_bytes)

    def adopt(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        transport.set_write_buffer_limits(high=self._limits.buffer_bytes)

    def data_received(self, data: bytes) -> None:
        if self.user is not None:
            self.user.upstream_data(data)
        elif self._greeting is not None and not self._greeting.done():
            self._greeting.set_result(data)
        else:
            self.abort()  # a server that speaks unasked

    def eof_received(self) -> bool:
        return self.user is not None and self.user.upstream_eof()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self.on_closed is not None:
            self.on_closed()
        if self._greeting is not None and not self._greeting.done():
            self._greeting.set_result(b"")
        if self.user is not None:
            self.user.upstream_lost(exc)

    def pause_writing(self) -> None:
        self._set_congested(True)

    def resume_writing(self) -> None:
        self._set_congested(False)

    def _set_congested(self, value: bool) -> None:
        self.congested = value
        self.stalled = asyncio.get_running_loop().time() if value else float("inf")
        if self.user is not None:
            self.user.upstream_writable()

    def set_reading(self, wanted: bool) -> None:
        if wanted == self._reading or self.closed:
            return
        self._reading = wanted
        if wanted:
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()

    def abort(self) -> None:
        """Close at once, unsent bytes are dropped. The user hears nothing."""
        self.user = None
        self.closed = True
        self.transport.abort()

    async def greet(self, line: bytes, seconds: float) -> bytes:
        """Send `line` and return the first bytes of the answer, none when there is no answer in time."""
        self._greeting = asyncio.get_running_loop().create_future()
        self.transport.write(line)
        try:
            async with asyncio.timeout(seconds):
                return await self._greeting
        except TimeoutError:
            return b""
        finally:
            self._greeting = None


def _lax_tls() -> ssl.SSLContext:
    """For servers inside sandboxes, whose certificates nobody signs; the way there does not leave the machine."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Dialer:
    """Opens connections; first directly, then over the relay for servers on the sandbox's loopback."""

    def __init__(self, limits: Limits, api_ports: set[int] | None = None) -> None:
        self._limits = limits
        self._tls = _lax_tls()
        self._api_ports = api_ports if api_ports is not None else set()
        """Local ports of the connections to the API: it can tell them from those of clients on this machine."""

    async def dial(self, key: Key, relay_secret: str = "") -> Upstream:
        """A fresh connection. `relay_secret` is what the relay knows us by. Raises PortClosedError."""
        try:
            upstream = await self._connect(key, key.port)
        except OSError as error:  # TimeoutError is one
            if not key.relay:
                raise PortClosedError from error
            upstream = await self._relay(key, relay_secret)
        return await self._secure(upstream) if key.tls else upstream

    async def _connect(self, key: Key, port: int) -> Upstream:
        if not key.sandbox_id:
            return await self._connect_to_api(key)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._limits.dial_time):
            _, upstream = await loop.create_connection(lambda: Upstream(key, self._limits), key.address, port)
        return upstream

    async def _connect_to_api(self, key: Key) -> Upstream:
        """With a port that is known before the API sees it."""
        loop = asyncio.get_running_loop()
        sock = socket.socket(socket.AF_INET6 if ":" in key.address else socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        port = 0
        try:
            sock.bind(("", 0))
            port = sock.getsockname()[1]
            self._api_ports.add(port)
            async with asyncio.timeout(self._limits.dial_time):
                await loop.sock_connect(sock, (key.address, key.port))
            _, upstream = await loop.create_connection(lambda: Upstream(key, self._limits), sock=sock)
        except BaseException:
            self._api_ports.discard(port)
            sock.close()
            raise
        upstream.on_closed = lambda: self._api_ports.discard(port)
        return upstream

    async def _relay(self, key: Key, secret: str) -> Upstream:
        try:
            upstream = await self._connect(key, ports.RELAY)
        except OSError as error:
            raise PortClosedError from error
        try:
            line = f"{key.port} {secret}\n" if secret else f"{key.port}\n"
            answer = await upstream.greet(line.encode(), self._limits.dial_time)
        except asyncio.CancelledError:
            upstream.abort()
            raise
        if not answer.startswith(_RELAY_OPEN):
            upstream.abort()
            raise PortClosedError
        # A server that speaks first is no HTTP server: what follows the sign is of no use.
        return upstream

    async def _secure(self, upstream: Upstream) -> Upstream:
        loop = asyncio.get_running_loop()
        try:
            transport = await loop.start_tls(
                upstream.transport, upstream, self._tls, ssl_handshake_timeout=self._limits.dial_time
            )
        except (OSError, ssl.SSLError) as error:
            upstream.abort()
            raise PortClosedError from error
        except asyncio.CancelledError:
            upstream.abort()
            raise
        assert transport is not None
        upstream.adopt(transport)
        return upstream


class Pool:
    """Idle connections, the most recently used first."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._idle: dict[Key, list[Upstream]] = {}
        self._count: Counter[str] = Counter()
        """Of one sandbox."""

    def take(self, key: Key) -> Upstream | None:
        idle = self._idle.get(key)
        while idle:
            upstream = idle.pop()
            self._count[key.sandbox_id] -= 1
            if not upstream.closed and not upstream.transport.is_closing():
                upstream.reused = True
                return upstream
        return None

    def put(self, upstream: Upstream, now: float) -> None:
        """Keep `upstream`, whose answer is complete, for the next request."""
        upstream.user = None
        idle = self._idle.setdefault(upstream.key, [])
        limits, sandbox = self._limits, upstream.key.sandbox_id
        full = len(idle) >= limits.pool_size or self._count[sandbox] >= limits.pool_sandbox
        full = full or self._count.total() >= limits.pool_total
        if full or upstream.closed or upstream.transport.is_closing():
            upstream.abort()
            return
        self._count[sandbox] += 1
        upstream.set_reading(True)
        upstream.idle_since = now
        idle.append(upstream)

    def expire(self, now: float) -> None:
        """Close what was idle for too long."""
        oldest = now - self._limits.pool_time
        for key, idle in list(self._idle.items()):
            fresh = [upstream for upstream in idle if not upstream.closed and upstream.idle_since > oldest]
            for upstream in idle:
                if not upstream.closed and upstream.idle_since <= oldest:
                    upstream.abort()
            self._count[key.sandbox_id] -= len(idle) - len(fresh)
            if fresh:
                self._idle[key] = fresh
            else:
                del self._idle[key]
        self._count = +self._count  # without those that have none

    def drop(self, sandbox_id: str | None = None) -> None:
        """Close the idle connections to one sandbox, or all."""
        for key in [key for key in self._idle if sandbox_id in (None, key.sandbox_id)]:
            for upstream in self._idle.pop(key):
                self._count[key.sandbox_id] -= 1
                upstream.abort()
