"""One request and its answer, from the client's connection to the sandbox's and back."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum, auto
from typing import TYPE_CHECKING

from .answers import Refusal, sandbox_not_found
from .body import BodyError, ChunkedBody, EndlessBody
from .destination import allowed_upgrade, broken, key_for, unreachable
from .directory import WakeRefusedError
from .headers import interim_head, request_head, response_head
from .routing import AGENT_PORTS, guard
from .upstream import PortClosedError
from .wire import Response, WireError, find_head_end, parse_response

if TYPE_CHECKING:
    import asyncio

    from .body import Body
    from .client import Client
    from .routing import Route
    from .upstream import Upstream
    from .wire import Request

_ANSWER_HEAD_BYTES = 256 * 1024
_MAX_INTERIM = 32
# Sent again when a kept connection turns out to be dead: doing these twice is as good as once (RFC 9110, 9.2.2).
_IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})


class _Stage(Enum):
    HEAD = auto()
    BODY = auto()
    TUNNEL = auto()
    OVER = auto()


class Exchange:
    """Owns the upstream connection from the request's head to the answer's last byte."""

    def __init__(self, client: Client, request: Request, route: Route) -> None:
        self.request = request
        self.route = route
        self._client = client
        self._edge = client.edge
        self._upstream: Upstream | None = None
        self._dialing: asyncio.Task[None] | None = None
        self._stage = _Stage.HEAD
        self._incoming: Body | None = request.body()
        self._outgoing: Body | None = None
        self._response: Response | None = None
        self._rechunk = False
        self._framed = True
        self._buffer = b""
        self._interims = 0
        self._half_closed = False
        self._upgrade = allowed_upgrade(request, route)
        self._key = key_for(route, self._edge.api_backend)

    @property
    def sandbox_id(self) -> str:
        """Empty for the API."""
        return self._key.sandbox_id

    @property
    def request_done(self) -> bool:
        return self._incoming is None or self._incoming.done

    @property
    def tunnel(self) -> bool:
        return self._stage is _Stage.TUNNEL

    @property
    def answering(self) -> bool:
        """Whether the answer's head went to the client."""
        return self._stage in {_Stage.BODY, _Stage.TUNNEL}

    @property
    def accepting(self) -> bool:
        """Whether `client_data` takes bytes now."""
        if self._upstream is None:
            return False
        return self.tunnel or not self.request_done

    @property
    def congested(self) -> bool:
        return self._upstream is not None and self._upstream.congested

    def start(self) -> None:
        if self._must_wait:
            self._dialing = self._edge.spawn(self._wake())
            return
        upstream = self._edge.pool.take(self._key)
        if upstream is not None:
            self._attach(upstream)
        else:
            self._dialing = self._edge.spawn(self._dial())

    @property
    def _must_wait(self) -> bool:
        target = self.route.target
        return target is not None and target.state != "running"

    async def _wake(self) -> None:
        """Wait until the sandbox runs again, which the request itself may bring about."""
        try:
            while self._must_wait:
                await self._wait()
        except Refusal as refusal:
            self._dialing = None
            self._refuse(refusal)
            return
        self._key = key_for(self.route, self._edge.api_backend)
        await self._dial()

    async def _wait(self) -> None:
        """One step towards a sandbox that runs. Raises: Refusal."""
        directory, target = self._edge.directory, self.route.target
        assert target is not None
        # Again: while the request waited, the sandbox may have fallen asleep.
        guard(self.request, self.route, directory)
        try:
            found = await directory.wake(target.sandbox_id)
        except WakeRefusedError as error:
            title = "Sandbox Not Resumed"
            raise Refusal(error.status, str(error), title=title, sandbox_id=target.sandbox_id) from error
        if found is None:
            raise sandbox_not_found(target.sandbox_id)
        self.route = replace(self.route, target=found)

    async def _dial(self) -> None:
        try:
            upstream = await self._edge.dialer.dial(self._key)
        except PortClosedError:
            self._dialing = None
            self._refuse(unreachable(self.route, self._edge.directory))
            return
        self._dialing = None
        if self._stage is _Stage.OVER or upstream.closed:
            upstream.abort()
            self._refuse(unreachable(self.route, self._edge.directory))
            return
        self._attach(upstream)

    def _attach(self, upstream: Upstream) -> None:
        self._upstream = upstream
        upstream.user = self
        client = self._client
        head = request_head(
            self.request,
            self.route,
            is_user_port=self.route.port not in AGENT_PORTS,
            upgrade=self._upgrade,
            peer=client.peer,
            scheme=client.scheme,
        )
        upstream.transport.write(head)
        upstream.set_reading(not client.congested)
        client.pump()

    # From the client

    def client_data(self, data: bytes) -> int:
        """Send on what of `data` is this request's; returns how much that was. Raises BodyError."""
        assert self._upstream is not None
        if self._stage is _Stage.TUNNEL:
            self._upstream.transport.write(data)
            return len(data)
        assert self._incoming is not None
        end = self._incoming.feed(data)
        self._upstream.transport.write(data if end == len(data) else data[:end])
        return end

    def client_eof(self) -> None:
        """In a tunnel: the client will send no more."""
        assert self._upstream is not None
        if self._half_closed or not self._upstream.transport.can_write_eof():
            self._end_tunnel()
        else:
            self._half_closed = True
            self._upstream.transport.write_eof()

    def _end_tunnel(self) -> None:
        """Both directions are over, or one that cannot end alone."""
        upstream = self._upstream
        assert upstream is not None
        upstream.user = None  # close, not abort: the client's last bytes may still be under way
        upstream.transport.close()
        self._upstream = None
        self.cancel()
        self._client.hang_up()

    def client_writable(self) -> None:
        """The client's congestion changed."""
        if self._upstream is not None:
            self._upstream.set_reading(not self._client.congested)

    def cancel(self) -> None:
        """The client is gone, or the sandbox: drop the upstream connection at once."""
        self._stage = _Stage.OVER
        if self._dialing is not None:
            self._dialing.cancel()
        if self._upstream is not None:
            self._upstream.abort()
        self._edge.forget(self)

    def cut(self) -> None:
        """The sandbox is gone or held: say so, or end an answer that has begun so that it cannot pass for a complete one."""
        if not self.answering:
            if self._try_again():
                return
            self._refuse(unreachable(self.route, self._edge.directory))
            return
        self.cancel()
        self._client.reset()

    # From the sandbox

    def upstream_writable(self) -> None:
        self._client.update_reading()

    def upstream_data(self, data: bytes) -> None:
        if self._stage is _Stage.TUNNEL:
            self._client.write(data)
        elif self._stage is _Stage.BODY:
            self._read_body(data)
        else:
            self._read_head(data)

    def upstream_eof(self) -> bool:
        if self._stage is _Stage.TUNNEL:
            if not self._half_closed and self._client.write_eof():
                self._half_closed = True
                return True
            self._end_tunnel()
            return False
        self._ended(None)
        return False

    def upstream_lost(self, error: Exception | None) -> None:
        self._ended(error)

    def _read_head(self, data: bytes) -> None:
        searched = len(self._buffer)
        self._buffer += data
        try:
            while self._stage is _Stage.HEAD:
                end = find_head_end(self._buffer, searched, _ANSWER_HEAD_BYTES, loose=True)
                if not end:
                    return
                head, self._buffer, searched = self._buffer[:end], self._buffer[end:], 0
                self._on_head(parse_response(head))
        except WireError as error:
            what = f"sent a malformed answer ({error.message})"
            self._refuse(broken(self.route, self._edge.directory, what))
            return
        rest, self._buffer = self._buffer, b""
        if self._stage is _Stage.OVER:
            return
        if rest:
            self.upstream_data(rest)

    def _on_head(self, response: Response) -> None:
        if response.status == 101:
            self._open_tunnel(response)
        elif response.status < 200:
            self._interims += 1
            if self._interims > _MAX_INTERIM:
                raise WireError("too many interim answers")
            if self.request.http11:
                self._client.write(interim_head(response))
        else:
            self._begin_answer(response)

    def _open_tunnel(self, response: Response) -> None:
        if not self._upgrade or not self.request_done:
            raise WireError("protocol switched without being asked")
        self._stage = _Stage.TUNNEL
        self._client.write(interim_head(response))
        self._edge.loop.call_soon(self._client.pump)

    def _begin_answer(self, response: Response) -> None:
        http11 = self.request.http11
        body = response.body(self.request.method, decode=not http11)
        endless = isinstance(body, EndlessBody)
        self._rechunk = endless and http11
        chunked = http11 and (endless or isinstance(body, ChunkedBody))
        self._framed = chunked or body is None or b"content-length" in response.fields
        keep = self.request.keep_alive and self._framed and not self._edge.stopping
        self._client.keep = keep
        self._response, self._outgoing, self._stage = response, body, _Stage.BODY
        self._client.write(response_head(response, http11=http11, chunked=chunked, keep_alive=keep))
        if body is None:
            self._finish(clean=not self._buffer)

    def _read_body(self, data: bytes) -> None:
        body = self._outgoing
        assert body is not None
        try:
            end = body.feed(data)
        except BodyError:
            self._break()
            return
        client = self._client
        if self._rechunk:
            client.write(b"%x\r\n%b\r\n" % (len(data), data))
        elif isinstance(body, ChunkedBody) and not self.request.http11:
            client.write(b"".join(body.pieces))
        else:
            client.write(data if end == len(data) else data[:end])
        if body.done:
            self._finish(clean=end == len(data))

    def _ended(self, error: Exception | None) -> None:
        """The upstream connection ended."""
        if self._stage is _Stage.TUNNEL:
            self.cancel()
            if error is None:
                self._client.hang_up()
            else:
                self._client.reset()
        elif self._stage is _Stage.HEAD:
            self._ended_without_answer()
        elif isinstance(self._outgoing, EndlessBody) and error is None:
            if self._rechunk:
                self._client.write(b"0\r\n\r\n")
            self._finish(clean=False)
        elif self._stage is _Stage.BODY:
            self._break()

    @property
    def _repeatable(self) -> bool:
        """Whether sending the request again cannot do harm."""
        untouched = self._incoming is None and not self._buffer and not self._interims
        return untouched and self.request.method in _IDEMPOTENT

    def _try_again(self) -> bool:
        """Have the request wait for a sandbox that is held, if nothing of it has been sent or it can be repeated."""
        route, edge = self.route, self._edge
        if route.target is None or self._stage is not _Stage.HEAD or not (self._upstream is None or self._repeatable):
            return False
        held = edge.directory.find(route.target.sandbox_id)
        if held is None or held.state == "running":
            return False
        if self._dialing is not None:
            self._dialing.cancel()
        if self._upstream is not None:
            self._upstream.abort()
            self._upstream = None
        self.route = replace(route, target=held)
        self._dialing = edge.spawn(self._wake())
        return True

    def _ended_without_answer(self) -> None:
        upstream = self._upstream
        assert upstream is not None
        if upstream.reused and self._repeatable:
            upstream.abort()
            self._upstream = None
            self._dialing = self._edge.spawn(self._dial())
            return
        self._refuse(broken(self.route, self._edge.directory, "closed the connection without an answer"))

    def _break(self) -> None:
        """The answer cannot be completed: its end must not look like one."""
        self.cancel()
        if self._framed:
            self._client.hang_up()  # what came so far arrives, the missing rest is evident
        else:
            self._client.reset()

    def _refuse(self, refusal: Refusal) -> None:
        over = self._stage is _Stage.OVER
        self.cancel()
        if not over:
            self._client.refuse(refusal, self.request, request_done=self.request_done)

    def _finish(self, *, clean: bool) -> None:
        """The answer is complete; `clean` says that the server sent nothing behind it."""
        upstream, response = self._upstream, self._response
        assert upstream is not None
        assert response is not None
        self._stage = _Stage.OVER
        self._edge.forget(self)
        idle = not upstream.transport.get_write_buffer_size()
        if clean and idle and self.request_done and response.keep_alive and not self._upgrade:
            self._edge.pool.put(upstream, self._edge.loop.time())
        else:
            upstream.abort()
        self._client.answered(request_done=self.request_done)
