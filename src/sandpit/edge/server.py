"""The gateway: listens, and owns every connection it makes or accepts."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from .client import Client
from .limits import Limits
from .refusals import Refusal
from .tls import TlsListener
from .upstream import Dialer, Pool

if TYPE_CHECKING:
    import ssl
    from collections.abc import Coroutine, Sequence

    from .directory import Directory
    from .exchange import Exchange

_BACKLOG = 4096
_KEEPALIVE = ((socket.SO_KEEPALIVE, 1),)
_TCP = ((socket.TCP_NODELAY, 1), (socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))


class Edge:
    """The data plane's door: HTTP/1.1 and websocket requests go to the sandbox and port that they name.

    `host` and `port` are where plain HTTP is served (port 0: any free one); with an `ssl_context` HTTPS is served on
    `tls_host` (`host` if not given) and `tls_port` too. Requests for `api.*`, and those that name no sandbox, go to
    `api_backend` (host, port) if given.
    """

    def __init__(
        self,
        directory: Directory,
        *,
        host: str | Sequence[str],
        port: int,
        api_backend: tuple[str, int] | None = None,
        limits: Limits | None = None,
        ssl_context: ssl.SSLContext | None = None,
        tls_host: str | Sequence[str] | None = None,
        tls_port: int = 0,
    ) -> None:
        self.directory = directory
        self.api_backend = api_backend
        self.limits = limits or Limits()
        self.pool = Pool(self.limits)
        self.dialer = Dialer(self.limits)
        self.stopping = False
        self._hosts = [host] if isinstance(host, str) else list(host)
        self._port = port
        self._ssl_context = ssl_context
        self._tls_hosts = [tls_host] if isinstance(tls_host, str) else list(tls_host or self._hosts)
        self._tls_port = tls_port
        self._plain: list[asyncio.Server] = []
        self._secure: list[socket.socket] = []
        self._clients: set[Client] = set()
        self._exchanges: dict[str, set[Exchange]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen. Raises OSError when an address is taken."""
        self.loop = asyncio.get_running_loop()
        self.directory.on_gone(self._on_gone)
        for host in self._hosts:
            server = await self.loop.create_server(lambda: Client(self, b"http"), host, self._port, backlog=_BACKLOG)
            self._plain.append(server)
            for sock in server.sockets:  # accepted connections inherit these
                _configure(sock)
        if self._ssl_context is not None:
            self._listen_for_tls(self._ssl_context)
        self._sweeper = self.spawn(self._sweep())

    def _listen_for_tls(self, context: ssl.SSLContext) -> None:
        """On all hosts, and on one port that is free on each when none was given."""
        port = self._tls_port
        for host in self._tls_hosts:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            sock = socket.create_server((host, port), family=family, backlog=_BACKLOG)
            sock.setblocking(False)
            _configure(sock)
            port = sock.getsockname()[1]
            self._secure.append(sock)
            listener = TlsListener(
                sock,
                context,
                lambda: Client(self, b"https"),
                room=lambda handshakes: len(self._clients) + handshakes < self.limits.connections,
                handshake_s=self.limits.head_time,
            )
            self.spawn(listener.serve())

    async def stop(self) -> None:
        """Close the listeners and cut every connection."""
        self.stopping = True
        for server in self._plain:
            server.close()
        for client in list(self._clients):
            client.reset()
        self.pool.drop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(server.wait_closed() for server in self._plain))

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where plain HTTP is served."""
        return _names([sock for server in self._plain for sock in server.sockets])

    @property
    def tls_addresses(self) -> list[tuple[str, int]]:
        """Where HTTPS is served."""
        return _names(self._secure)

    @property
    def has_api(self) -> bool:
        return self.api_backend is not None

    # For the connections

    def admit(self, client: Client) -> bool:
        """Count `client` in; false when there are too many."""
        self._clients.add(client)
        return len(self._clients) <= self.limits.connections

    def release(self, client: Client) -> None:
        self._clients.discard(client)

    def register(self, exchange: Exchange) -> None:
        """Have `exchange` cut when its sandbox goes. Raises Refusal (429) when the sandbox has too many."""
        of_sandbox = self._exchanges.setdefault(exchange.sandbox_id, set())
        if exchange.sandbox_id and len(of_sandbox) >= self.limits.sandbox_requests:
            raise Refusal(429, "Too many connections to the sandbox", sandbox_id=exchange.sandbox_id)
        of_sandbox.add(exchange)

    def forget(self, exchange: Exchange) -> None:
        of_sandbox = self._exchanges.get(exchange.sandbox_id)
        if of_sandbox is not None:
            of_sandbox.discard(exchange)
            if not of_sandbox:
                del self._exchanges[exchange.sandbox_id]

    def spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Run `work`, until `stop` at the latest."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _on_gone(self, sandbox_id: str) -> None:
        for exchange in list(self._exchanges.get(sandbox_id, ())):
            exchange.cut()
        self.pool.drop(sandbox_id)

    async def _sweep(self) -> None:
        """End what is too slow. One pass over all connections is cheaper than a timer for every request."""
        period = min(1.0, self.limits.head_time / 4, self.limits.idle_time / 4, self.limits.pool_time / 4)
        while True:
            await asyncio.sleep(period)
            now = self.loop.time()
            for client in [client for client in self._clients if client.deadline <= now]:
                client.expire()
            self.pool.expire(now)


def _configure(sock: socket.socket) -> None:
    for option, value in _KEEPALIVE:
        sock.setsockopt(socket.SOL_SOCKET, option, value)
    for option, value in _TCP:
        sock.setsockopt(socket.IPPROTO_TCP, option, value)


def _names(sockets: Sequence[socket.socket]) -> list[tuple[str, int]]:
    return [sock.getsockname()[:2] for sock in sockets]
