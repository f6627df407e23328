"""Heads of servers in sandboxes, which may be anything: what reaches a client is an answer, or 502."""

from __future__ import annotations

import re
from contextlib import suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.edge.edge_support import answering, raw, request, serving

from sandpit.edge import Edge
from sandpit.edge.answer import AnswerBody, AnswerHeads
from sandpit.edge.headers import interim_head, response_head
from sandpit.edge.wire import WireError, parse_request, parse_response

STATUS_LINES = [
    b"HTTP/1.1 099 Odd", b"HTTP/1.1 000 Odd", b"HTTP/1.1 1000 Odd", b"HTTP/1.1 20x OK", b"HTTP/1.1 -200 OK", b"HTTP/1.1 +200 OK",
    b"HTTP/1.1 600 Odd", b"HTTP/1.1 999 Odd", b"HTTP/1.1 20 OK", b"HTTP/1.1 2 OK", b"HTTP/1.1 OK", b"HTTP/1.1", b"HTTP/1.1 ",
    b"HTTP/1.1  200 OK", b"HTTP/1.1\t200 OK", b"HTTP/1.1 200\tOK", b"HTTP/1.1 200OK", b"HTTP/1.1 2 0 0", b"HTTP/1.1 0x1F OK",
    b"HTTP/1.1 2e2 OK", b"HTTP/1.1 99999999999999999999999 OK", b"HTTP/1.1 \xd9\xa2\xd9\xa0\xd9\xa0 OK", b"HTTP/3.0 200 OK",
    b"HTTP/2 200", b"HTTP/2.0 200 OK", b"HTTP/1.2 200 OK", b"HTTP/0.9 200 OK", b"HTTP/11 200 OK", b"HTTP/01.1 200 OK",
    b"HTTP/1.10 200 OK", b"http/1.1 200 OK", b" HTTP/1.1 200 OK", b"\r\nHTTP/1.1 200 OK", b"ICY 200 OK", b"SIP/2.0 200 OK",
    b"HTTPS/1.1 200 OK", b"HTTP/1.1 200 O\x00K", b"HTTP/1.1 200 O\rK", b"HTTP/1.1 200 O\x1b[0mK", b"HTTP/1.1 200 O\x7fK",
    b"GET / HTTP/1.1", b"\x00\x00\x00", b"HTTP/1.1 200 OK HTTP/1.1 200 OK\x01",
]  # fmt: skip
FIELDS = [
    b"Content-Length: 2\r\nContent-Length: 2", b"Content-Length: 2, 2", b"Content-Length: +2", b"Content-Length: -2",
    b"Content-Length: 0x2", b"Content-Length: 2 2", b"Content-Length:", b"Content-Length: 99999999999999999999", b"Content-Length : 2",
    b"Content-Length\t: 2", b"Content-Length: 2\r\nTransfer-Encoding: chunked", b"Transfer-Encoding: chunked, chunked",
    b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding:\x0bchunked", b"Transfer-Encoding: xchunked", b"Transfer-Encoding: chunked;q=1", b"X: a\r\n b", b"X: a\r\n\tb",
    b" X: a", b"X: a\rY: b", b"X: a\x00", b"X: \x01", b"X: a\x7f", b": a", b"X y: a", b"X", b"X\xc3: a", b"(X): a", b"X: a\n b",
    b"\r\n".join(b"X-%d: a" % number for number in range(600)),
]  # fmt: skip


@pytest.mark.parametrize("line", STATUS_LINES)
async def test_impossible_status_lines_become_502(edge: Edge, line: bytes) -> None:
    answer = line + b"\r\nContent-Length: 2\r\n\r\nok"
    async with serving(answering(answer, close=True)) as port, raw(edge, request(port)) as client:
        assert (await client.head()).startswith(b"HTTP/1.1 502 ")


@pytest.mark.parametrize("fields", FIELDS)
async def test_contradictory_heads_become_502(edge: Edge, fields: bytes) -> None:
    answer = b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    async with serving(answering(answer, close=True)) as port, raw(edge, request(port)) as client:
        assert (await client.head()).startswith(b"HTTP/1.1 502 ")


@pytest.mark.parametrize(
    ("answer", "status", "reason"),
    [
        (b"HTTP/1.1 200\r\n", 200, b""), (b"HTTP/1.1 200 \r\n", 200, b""), (b"HTTP/1.0 404 Not  Found\r\n", 404, b"Not  Found"),
        (b"HTTP/1.1 599 \xc3\xa4\n", 599, b"\xc3\xa4"), (b"HTTP/1.1 299 a:b\tc\r\n", 299, b"a:b\tc"),
    ],
)  # fmt: skip
def test_unusual_answers_that_are_right(answer: bytes, status: int, reason: bytes) -> None:
    parsed = parse_response(answer + b"Content-Length: 0\r\n\r\n")
    assert (parsed.status, parsed.reason) == (status, reason)


async def test_answers_without_a_body_claim_no_length(edge: Edge) -> None:
    """A client that believed it would wait for ever."""
    answer = (
        b"HTTP/1.1 103 Early\r\nContent-Length: 5\r\nLink: </a>\r\n\r\nHTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n"
    )
    async with serving(answering(answer)) as port, raw(edge, request(port)) as client:
        early, last = await client.head(), await client.head()
        assert early.startswith(b"HTTP/1.1 103 ")
        assert last.startswith(b"HTTP/1.1 204 ")
        assert b"link" in early.lower()
        assert b"content-length" not in (early + last).lower()


@pytest.mark.parametrize("upgrade", [b"", b"Upgrade: h2c\r\n", b"Upgrade: websocket, h2c\r\n"])
async def test_a_switch_to_another_protocol_than_asked_is_502(edge: Edge, upgrade: bytes) -> None:
    answer = b"HTTP/1.1 101 S\r\nConnection: upgrade\r\n" + upgrade + b"\r\n"
    wanted = "Connection: upgrade\r\nUpgrade: websocket\r\n"
    async with serving(answering(answer)) as port, raw(edge, request(port, extra=wanted)) as client:
        assert (await client.head()).startswith(b"HTTP/1.1 502 ")


_STRICT = re.compile(
    rb"HTTP/1\.1 [1-5][0-9]{2} [\t\x20-\x7e\x80-\xff]*\r\n(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+: [\t\x20-\x7e\x80-\xff]*\r\n)*\r\n"
)
_pieces = st.sampled_from(
    [*STATUS_LINES, *FIELDS, b"HTTP/1.1 200 OK", b"HTTP/1.0 204 No", b"HTTP/1.1 101 S", b"Content-Length: 3", b"\r\n", b"\n", b"\r",
     b"Transfer-Encoding: chunked", b"Connection: close, Content-Length", b"Upgrade: x", b"X: \xff", b"abc", b"\0", b" "]
)  # fmt: skip
_heads = st.one_of(
    st.binary(max_size=200),
    st.lists(_pieces, max_size=8).map(lambda lines: b"\r\n".join(lines) + b"\r\n\r\n"),
    st.lists(st.one_of(_pieces, st.binary(max_size=8)), max_size=12).map(b"".join),
)
_REQUEST = parse_request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")


@settings(max_examples=600, deadline=None, database=None)
@given(_heads, st.integers(1, 60))
@example(b"HTTP/1.1 200 OK\r\nConnection: close, x\r\nX: 1\r\n\r\n", 7)
def test_whatever_a_server_sends_is_refused_or_becomes_a_strict_head(data: bytes, step: int) -> None:
    """In one piece or many, the same; what is passed on has one reading only."""
    heads, whole = AnswerHeads(), AnswerHeads()
    found: list[bytes] = []
    try:
        for start in range(0, len(data), step):
            heads.feed(data[start : start + step])
            while (response := heads.next()) is not None:
                body = AnswerBody(_REQUEST, response)
                found += [interim_head(response) if response.status < 200 else body.head(keep_alive=True)]
                assert _STRICT.fullmatch(found[-1]), found[-1]
                assert response_head(response, http11=False, chunked=False, keep_alive=False)
    except WireError:
        found.append(b"502")
    again: list[bytes] = []
    try:
        whole.feed(data)
        while (response := whole.next()) is not None:
            again += [
                interim_head(response)
                if response.status < 200
                else AnswerBody(_REQUEST, response).head(keep_alive=True)
            ]
    except WireError:
        again.append(b"502")
    assert found == again


@settings(max_examples=400, deadline=None, database=None)
@given(_heads)
def test_whatever_a_client_sends_is_a_request_or_refused(data: bytes) -> None:
    with suppress(WireError):
        assert parse_request(b"GET / HTTP/1.1\r\n" + data).method == b"GET"
