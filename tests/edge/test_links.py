"""Signed links: the edge, which wakes paused sandboxes for them, and the agent, which serves them, judge the same table the same way."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

import pytest
from starlette.datastructures import Headers, QueryParams
from tests.edge.edge_support import SANDBOX, MemoryDirectory, raw, request

from sandpit.edge.refusals import Refusal
from sandpit.edge.signatures import opens
from sandpit.guest.agent.files.error import FileError
from sandpit.guest.agent.files.routes import _Files
from sandpit.protocol import ports
from sandpit.protocol.links import sign

if TYPE_CHECKING:
    from sandpit.edge import Edge

TOKEN = "0tQG31xiMp0IOQfaz9dcwi72L1CPo8e0"
FUTURE, PAST = int(time.time()) + 3600, int(time.time()) - 60


class Case(NamedTuple):
    name: str
    query: str
    accepted: bool
    method: str = "GET"
    tokens: tuple[str, ...] = ()


def signed(
    path: str = "/a", operation: str = "read", user: str = "user", expiration: int | None = None, token: str = TOKEN
) -> str:
    return quote(sign(path, operation, user, token, expiration), safe="")  # type: ignore[arg-type]


def query(signature: str, *more: str, path: str = "/a", user: str = "user") -> str:
    return "&".join([f"path={quote(path, safe='')}", f"username={user}", f"signature={signature}", *more])


CASES = (
    Case("plain", query(signed()), True),
    Case("with an end", query(signed(expiration=FUTURE), f"signature_expiration={FUTURE}"), True),
    Case("expired", query(signed(expiration=PAST), f"signature_expiration={PAST}"), False),
    Case("expired long ago", query(signed(expiration=0), "signature_expiration=0"), False),
    Case("its end taken off", query(signed(expiration=PAST)), False),
    Case("another end", query(signed(expiration=PAST), f"signature_expiration={FUTURE}"), False),
    Case("an end put on", query(signed(), f"signature_expiration={FUTURE}"), False),
    Case("an empty end", query(signed(), "signature_expiration="), False),
    Case("an end with a zero", query(signed(expiration=FUTURE), f"signature_expiration=0{FUTURE}"), False),
    Case("an end with a plus", query(signed(expiration=FUTURE), f"signature_expiration=%2B{FUTURE}"), False),
    Case("an end with a blank", query(signed(expiration=FUTURE), f"signature_expiration=%20{FUTURE}"), False),
    Case("an end with an underscore", query(signed(expiration=1_0), "signature_expiration=1_0"), False),
    Case("an end in other digits", query(signed(expiration=1), "signature_expiration=%D9%A1"), False),
    Case("a fraction", query(signed(expiration=FUTURE), f"signature_expiration={FUTURE}.0"), False),
    Case("an end beyond all clocks", query(signed(expiration=10**18), f"signature_expiration={10**18}"), False),
    Case("the latest end", query(signed(expiration=10**18 - 1), f"signature_expiration={10**18 - 1}"), True),
    Case("a negative end", query(signed(expiration=-1), "signature_expiration=-1"), False),
    Case("a path twice", query(signed(), "path=/b"), False),
    Case("the same path twice", query(signed(), "path=/a"), False),
    Case("a user twice", query(signed(), "username=root"), False),
    Case("a signature twice", query(signed(), f"signature={signed()}"), False),
    Case("an end twice", query(signed(expiration=FUTURE), *[f"signature_expiration={FUTURE}"] * 2), False),
    Case("something else twice", query(signed(), "x=1", "x=2"), True),
    Case("another path", query(signed(), path="/b"), False),
    Case("another user", query(signed(), user="root"), False),
    Case("no user", f"path=/a&signature={signed(user='')}", True),
    Case("no path", f"username=user&signature={signed(path='')}", True),
    Case("no signature", "path=/a&username=user", False),
    Case("an empty signature", query(""), False),
    Case("a cut signature", query(signed()[:-1]), False),
    Case("another case", query(signed().lower()), False),
    Case("another token", query(signed(token="x" * 32)), False),
    Case("a sign where a blank is sent", query(signed(path="a+b"), path="a+b"), True),
    Case("letters beyond ASCII", query(signed(path="ü/日"), path="ü/日"), True),
    Case("bytes that are no text", f"path=%FF&username=user&signature={signed(path=chr(0xFFFD))}", True),
    Case("a read for a write", query(signed()), False, "POST"),
    Case("a write", query(signed(operation="write")), True, "POST"),
    Case("a write for a read", query(signed(operation="write")), False),
    Case("only its head", query(signed()), True, "HEAD"),
    Case("semicolons", query(signed()).replace("&", ";"), False),
    Case("the token", "path=/a", True, tokens=(TOKEN,)),
    Case("another token in the header", query(signed()), False, tokens=("x" * 32,)),
    Case("an empty token", query(signed()), False, tokens=("",)),
    Case("two tokens", query(signed()), False, tokens=(TOKEN, TOKEN)),
    Case("two different tokens", query(signed()), False, tokens=(TOKEN, "x")),
)
by_name = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def agent_accepts(case: Case) -> bool:
    files = _Files(SimpleNamespace(access_token=TOKEN))  # type: ignore[arg-type]
    headers = Headers(raw=[(b"x-access-token", token.encode()) for token in case.tokens])
    fields = QueryParams(case.query.encode())
    try:
        files._check(headers, fields, "write" if case.method == "POST" else "read", fields.get("username", ""))
    except FileError:
        return False
    return True


@by_name
def test_the_agent(case: Case) -> None:
    assert agent_accepts(case) is case.accepted


@by_name
async def test_only_what_the_agent_accepts_wakes_it(directory: MemoryDirectory, edge: Edge, case: Case) -> None:
    """With the sandbox's id, and without: by the signature alone, where there is one and no token."""
    if not case.tokens:
        try:
            accepted = opens(case.method.encode(), b"/files?" + case.query.encode(), TOKEN)
        except Refusal:
            accepted = False
        assert accepted is case.accepted
    directory.add(state="asleep", access_token=TOKEN)
    directory.add("iother", "127.0.0.3", state="asleep", access_token="other")
    extra = "".join(f"X-Access-Token: {token}\r\n" for token in case.tokens)
    target = f"/files?{case.query}"
    async with raw(edge, request(ports.AGENT, target, method=case.method, extra=extra)) as client:
        status = int((await client.head()).split()[1])
    assert (status not in (400, 401)) is case.accepted, "nothing listens there: 502"
    assert directory.wakes == ([SANDBOX] if case.accepted else [])
    if case.tokens:
        return
    directory.wakes.clear()
    directory.add(state="asleep", access_token=TOKEN)
    async with raw(edge, f"{case.method} {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()) as client:
        status = int((await client.head()).split()[1])
    assert (status not in (400, 401)) is case.accepted, status
    assert directory.wakes == ([SANDBOX] if case.accepted else [])


@pytest.mark.parametrize(
    ("port", "target", "extra"),
    [
        (ports.LEGACY_AGENT, f"/files?{query(signed())}", ""),  # the agent of 2024 knows no signed links
        (ports.LEGACY_AGENT, "/file?path=/a", "X-Access-Token: wrong\r\n"),
        (ports.LEGACY_AGENT, "/ws", ""),
        (ports.AGENT, f"/file?{query(signed())}", ""),
        (ports.AGENT, f"/files/?{query(signed())}", ""),
        (ports.AGENT, f"/%66iles?{query(signed())}", ""),
        (ports.AGENT, f"/process.Process/Start?{query(signed())}", ""),
        (ports.AGENT, "/health", ""),
    ],
)
async def test_what_else_does_not_wake_it(
    directory: MemoryDirectory, edge: Edge, port: int, target: str, extra: str
) -> None:
    directory.add(state="asleep", access_token=TOKEN)
    async with raw(edge, request(port, target, extra=extra)) as client:
        assert (await client.answer())[0] == 401
    assert directory.wakes == []


async def test_a_link_that_expires_while_it_waits(
    directory: MemoryDirectory, edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sandbox that is being paused: the request is judged again when it has fallen asleep."""
    directory.add(access_token=TOKEN)
    directory.hold()
    target = f"/files?{query(signed(expiration=FUTURE), f'signature_expiration={FUTURE}')}"
    async with raw(edge, request(ports.AGENT, target)) as client:
        await directory.waking.wait()
        monkeypatch.setattr("sandpit.protocol.links.time", SimpleNamespace(time=lambda: FUTURE + 1))
        directory.release(asleep=True)
        assert (await client.answer())[0] == 401
    assert directory.wakes == []
