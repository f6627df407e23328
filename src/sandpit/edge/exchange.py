"""One request and its answer, from the client's connection to the sandbox's and back."""

from __future__ import annotations

import math
from enum import Enum, auto
from typing import TYPE_CHECKING

from sandpit.protocol import ports

from .answer import SWITCHING_PROTOCOLS, AnswerBody, AnswerHeads
from .body import BodyError
from .connecting import Connector
from .destination import allowed_upgrade, broken, unreachable
from .farewell import farewell
from .headers import interim_head, request_head
from .routing import AGENT_PORTS
from .wire import WireError

if TYPE_CHECKING:
    from collections.abc import Callable

    from .body import Body
    from .client import Client
    from .refusals import Refusal
    from .routing import Route
    from .upstream import Upstream
    from .wire import Request, Response

# Sent again when a kept connection turns out to be dead: doing these twice is as good as once (RFC 9110, 9.2.2).
_IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})

_TOUCH_SECONDS = 1.0
_WORD_SECONDS = 0.5
"""How long after a sandbox's own server has gone it may take to learn that the sandbox has: containers close their connections first."""
_OWN_PORTS = AGENT_PORTS | {ports.INTERPRETER}


class _Stage(Enum):
    HEAD = auto()
    BODY = auto()
    TUNNEL = auto()
    OVER = auto()


class Exchange:
    """Owns the upstream connection from the request's head to the answer's last byte."""

    def __init__(self, client: Client, request: Request, route: Route) -> None:
        self.request = request
        self._client = client
        self._edge = client.edge
        self._upstream: Upstream | None = None
        self._stage = _Stage.HEAD
        self._incoming: Body | None = request.body()
        self._heads = AnswerHeads()
        self._outgoing: AnswerBody | None = None
        self._keep_upstream = False
        self._half_closed = False
        self._upgrade = allowed_upgrade(request, route)
        self._connector = Connector(self._edge, request, route)
        self._touch_at = 0.0 if route.target is not None else math.inf

    @property
    def route(self) -> Route:
        """Where the request goes; a sandbox that was resumed is found elsewhere than before."""
        return self._connector.route

    @property
    def sandbox_id(self) -> str:
        """Empty for the API."""
        return self._connector.sandbox_id

    @property
    def client_address(self) -> str:
        """Where the request comes from."""
        return self._client.peer.decode()

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

    @property
    def stalled(self) -> float:
        """Since when the server takes too little of the request (event loop time); infinity when it does not."""
        return self._upstream.stalled if self._upstream is not None else float("inf")

    def start(self) -> None:
        self._touch()
        self._connector.start(self)

    def _touch(self) -> None:
        """Something flows: the sandbox is to be on time. Costs a comparison, but for the first time in a second."""
        now = self._edge.loop.time()
        if now >= self._touch_at:
            self._touch_at = now + _TOUCH_SECONDS
            self._edge.directory.touch(self.sandbox_id)

    def connected(self, upstream: Upstream) -> None:
        """The connection is there: send the request."""
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
        self._touch()
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
        self._connector.cancel()
        if self._upstream is not None:
            self._upstream.abort()
        self._edge.forget(self)

    def cut(self) -> None:
        """The sandbox is gone or held: say so, or end an answer that has begun so that it cannot pass for a complete one."""
        if not self.answering:
            if self._try_again():
                return
            self.refuse(unreachable(self.route, self._edge.directory))
            return
        last = self._last_words()
        self.cancel()
        if last is None:
            self._client.reset()
        else:
            self._client.write(last)
            self._client.hang_up()

    def _last_words(self) -> bytes | None:
        """What ends an answer whose sandbox has ended on its own, where that can be said."""
        why = (
            self._edge.directory.why_gone(self.sandbox_id) if self._edge.directory.find(self.sandbox_id) is None else ""
        )
        if not why or self._stage is not _Stage.BODY or self._outgoing is None:
            return None
        words = farewell(self._outgoing.content_type, self.route.port, why)
        return None if words is None else self._outgoing.complete(words)

    def give_up(self, refusal: Refusal) -> None:
        """Answer in the sandbox's stead, or end an answer that has begun so that it cannot pass for a complete one."""
        if self.answering:
            self.cancel()
            self._client.reset()
        else:
            self.refuse(refusal)

    # From the sandbox

    def upstream_writable(self) -> None:
        self._client.update_reading()

    def upstream_data(self, data: bytes) -> None:
        self._touch()
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
        heads = self._heads
        heads.feed(data)
        try:
            while self._stage is _Stage.HEAD:
                if (response := heads.next()) is None:
                    return
                self._on_head(response)
        except WireError as error:
            what = f"sent a malformed answer ({error.message})"
            self.refuse(broken(self.route, self._edge.directory, what))
            return
        rest = heads.take_rest()
        if rest and self._stage is not _Stage.OVER:
            self.upstream_data(rest)

    def _on_head(self, response: Response) -> None:
        if response.status == SWITCHING_PROTOCOLS:
            self._open_tunnel(response)
        elif response.status >= 200:
            self._begin_answer(response)
        elif self.request.http11:
            self._client.write(interim_head(response))

    def _open_tunnel(self, response: Response) -> None:
        offered = response.fields.get(b"upgrade", b"").strip().lower()
        asked = {protocol.strip() for protocol in self._upgrade.split(b",")} - {b""}
        if not self.request_done or offered not in asked:
            raise WireError("protocol switched without being asked")
        self._stage = _Stage.TUNNEL
        self._client.write(interim_head(response))
        self._edge.loop.call_soon(self._client.pump)

    def _begin_answer(self, response: Response) -> None:
        body = AnswerBody(self.request, response)
        keep = self.request.keep_alive and body.framed and not self._edge.stopping
        self._client.keep = keep
        self._outgoing, self._keep_upstream, self._stage = body, response.keep_alive, _Stage.BODY
        self._client.write(body.head(keep_alive=keep))
        if body.done:
            self._finish(clean=not self._heads.rest)

    def _read_body(self, data: bytes) -> None:
        body = self._outgoing
        assert body is not None
        try:
            passed_on, end = body.feed(data)
        except BodyError:
            self._break()
            return
        self._client.write(passed_on)
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
        elif self._stage is _Stage.BODY:
            assert self._outgoing is not None
            last = self._outgoing.end() if error is None else None
            if last is None:
                self._soon(self._break)
                return
            if last:
                self._client.write(last)
            self._finish(clean=False)

    def _soon(self, conclude: Callable[[], None]) -> None:
        """End the exchange when its sandbox has had time to be known as gone: `cut` may come first, which knows why."""
        if self.route.port not in _OWN_PORTS:
            conclude()
            return
        assert self._upstream is not None
        self._upstream.abort()
        stage = self._stage
        self._edge.loop.call_later(_WORD_SECONDS, lambda: conclude() if self._stage is stage else None)

    @property
    def _repeatable(self) -> bool:
        """Whether sending the request again cannot do harm."""
        untouched = self._incoming is None and not self._heads.begun
        return untouched and self.request.method in _IDEMPOTENT

    def _try_again(self) -> bool:
        """Have the request wait for a sandbox that is held, if nothing of it has been sent or it can be repeated."""
        route, edge = self.route, self._edge
        if route.target is None or self._stage is not _Stage.HEAD or not (self._upstream is None or self._repeatable):
            return False
        held = edge.directory.find(route.target.sandbox_id)
        if held is None or held.state == "running":
            return False
        if self._upstream is not None:
            self._upstream.abort()
            self._upstream = None
        self._connector.wait_for(held, self)
        return True

    def _ended_without_answer(self) -> None:
        upstream = self._upstream
        assert upstream is not None
        if upstream.reused and self._repeatable:
            upstream.abort()
            self._upstream = None
            self._connector.dial(self)
            return
        self._soon(
            lambda: self.refuse(broken(self.route, self._edge.directory, "closed the connection without an answer"))
        )

    def _break(self) -> None:
        """The answer cannot be completed: its end must not look like one."""
        self.cancel()
        if self._outgoing is None or self._outgoing.framed:
            self._client.hang_up()  # what came so far arrives, the missing rest is evident
        else:
            self._client.reset()

    def refuse(self, refusal: Refusal) -> None:
        """Answer in the sandbox's stead, unless the exchange is over."""
        over = self._stage is _Stage.OVER
        self.cancel()
        if not over:
            self._client.refuse(refusal, self.request, request_done=self.request_done)

    def _finish(self, *, clean: bool) -> None:
        """The answer is complete; `clean` says that the server sent nothing behind it."""
        upstream = self._upstream
        assert upstream is not None
        self._stage = _Stage.OVER
        self._edge.forget(self)
        idle = not upstream.transport.get_write_buffer_size()
        if clean and idle and self.request_done and self._keep_upstream and not self._upgrade:
            self._edge.pool.put(upstream, self._edge.loop.time())
        else:
            upstream.abort()
        self._client.answered(request_done=self.request_done)
