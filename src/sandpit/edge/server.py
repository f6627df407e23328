"""The gateway: listens, and owns every connection it makes or accepts."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from typing import TYPE_CHECKING

from sandpit.lib.peers import Peers

from .client import Client
from .limits import STALL_GRACE, Limits
from .refusals import Refusal
from .tls import TlsListener
from .upstream import Dialer, Pool

if TYPE_CHECKING:
    import ssl
    from collections.abc import Coroutine, Sequence

    from sandpit.contract.directory import Directory

    from .exchange import Exchange

_BACKLOG = 4096
_KEEPALIVE = ((socket.SO_KEEPALIVE, 1),)
_TCP = ((socket.TCP_NODELAY, 1), (socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))


class Edge:
    """The data plane's door: HTTP/1.1 and websocket requests go to the sandbox and port that they name.

    `host` and `port` are where plain HTTP is served (port 0: any free one); with an `ssl_context` HTTPS is served on
    `tls_host` (`host` if not given) and `tls_port` too. Requests for `api.*`, and those that name no sandbox, go to
    `api_backend` (host, port) if given; `api_ports` always holds the local ports of these connections.
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
        api_ports: set[int] | None = None,
    ) -> None:
        self.directory = directory
        self.api_backend = api_backend
        self.limits = limits or Limits()
        self.pool = Pool(self.limits)
        self.dialer = Dialer(self.limits, api_ports)
        self.stopping = False
        self._hosts = [host] if isinstance(host, str) else list(host)
        self._port = port
        self._ssl_context = ssl_context
        self._tls_hosts = [tls_host] if isinstance(tls_host, str) else list(tls_host or self._hosts)
        self._tls_port = tls_port
        self._plain: list[asyncio.Server] = []
        self._secure: list[socket.socket] = []
        limits = self.limits
        self._clients: set[Client] = set()
        self._peers = Peers(total=limits.connections, each=limits.client_connections, proxies=limits.proxies)
        self._api_clients: Counter[str] = Counter()
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
                _configure(sock, self.limits)
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
            _configure(sock, self.limits)
            port = sock.getsockname()[1]
            self._secure.append(sock)
            listener = TlsListener(
                sock,
                context,
                lambda: Client(self, b"https"),
                room=self._peers.has_room,
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

    def admit(self, client: Client) -> Refusal | None:
        """Count `client` in, until it is released; what it is answered when there are too many."""
        address = client.peer.decode()
        room = self._peers.has_room(address)
        self._clients.add(client)
        self._peers.add(client, address)
        if room:
            return None
        return Refusal(503, "The gateway has too many connections, from this address or in all: try again later")

    def release(self, client: Client) -> None:
        self._clients.discard(client)
        self._peers.remove(client)

    def register(self, exchange: Exchange) -> None:
        """Have `exchange` cut when its sandbox goes. Raises Refusal (429, 503) when the sandbox, or the API, has too many."""
        sandbox_id = exchange.sandbox_id
        held = len(self._exchanges.get(sandbox_id, ()))
        if not sandbox_id:
            self._register_for_api(exchange, held)
        elif held >= self.limits.sandbox_requests:
            raise Refusal(429, "Too many connections to the sandbox", sandbox_id=sandbox_id)
        self._exchanges.setdefault(sandbox_id, set()).add(exchange)

    def _register_for_api(self, exchange: Exchange, held: int) -> None:
        client = exchange.client_address
        group = self._peers.group_of(client)
        if self._api_clients[group] >= self.limits.client_api_requests and not self._peers.is_proxy(client):
            raise Refusal(429, "Too many requests to the API at a time")
        if held >= self.limits.api_requests:
            raise Refusal(503, "The API has too many requests, try again later")
        self._api_clients[group] += 1

    def forget(self, exchange: Exchange) -> None:
        of_sandbox = self._exchanges.get(exchange.sandbox_id)
        if of_sandbox is None or exchange not in of_sandbox:
            return
        of_sandbox.remove(exchange)
        if not of_sandbox:
            del self._exchanges[exchange.sandbox_id]
        if not exchange.sandbox_id:
            group = self._peers.group_of(exchange.client_address)
            self._api_clients[group] -= 1
            if not self._api_clients[group]:
                del self._api_clients[group]

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

    def _stalled_too_long(self, now: float) -> list[Client]:
        """Clients whose answers take memory for nothing: for too long, or too many of one address or in all."""
        limits, of_group = self.limits, Counter[str]()
        stalled = [client for client in self._clients if client.stalled <= now - min(STALL_GRACE, limits.stall_time)]
        stalled.sort(key=lambda client: client.stalled, reverse=True)
        found = []
        for number, client in enumerate(stalled):
            address = client.peer.decode()
            group = self._peers.group_of(address)
            of_group[group] += 1
            too_many = of_group[group] > limits.client_stalled and not self._peers.is_proxy(address)
            if too_many or number >= limits.stalled or client.stalled <= now - limits.stall_time:
                found.append(client)
        return found

    def _stalled_uploads(self, now: float) -> list[Exchange]:
        """Requests that take memory for nothing: too many of which one sandbox reads nothing."""
        found = []
        for sandbox_id, of_sandbox in self._exchanges.items():
            if sandbox_id and len(of_sandbox) > self.limits.sandbox_stalled:
                stalled = [exchange for exchange in of_sandbox if exchange.stalled <= now - STALL_GRACE]
                stalled.sort(key=lambda exchange: exchange.stalled, reverse=True)
                found += stalled[self.limits.sandbox_stalled :]
        return found

    async def _sweep(self) -> None:
        """End what is too slow. One pass over all connections is cheaper than a timer for every request."""
        period = min(1.0, self.limits.head_time / 4, self.limits.idle_time / 4, self.limits.pool_time / 4)
        while True:
            await asyncio.sleep(period)
            now = self.loop.time()
            for client in [client for client in self._clients if client.deadline <= now]:
                client.expire()
            for client in self._stalled_too_long(now):
                client.reset()
            for exchange in self._stalled_uploads(now):
                exchange.give_up(Refusal(503, "The sandbox does not read what is sent to it, try again later"))
            self.pool.expire(now)


def _configure(sock: socket.socket, limits: Limits) -> None:
    for option, value in _KEEPALIVE:
        sock.setsockopt(socket.SOL_SOCKET, option, value)
    for option, value in _TCP:
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, limits.unsent_bytes)


def _names(sockets: Sequence[socket.socket]) -> list[tuple[str, int]]:
    return [sock.getsockname()[:2] for sock in sockets]
