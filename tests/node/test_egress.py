"""What egress rules mean: coverage of all addresses, names by labels, and messages of hostile peers."""

from __future__ import annotations

import contextlib
from ipaddress import IPv4Address as Address
from ipaddress import IPv4Network, collapse_addresses, summarize_address_range

import dns.message
import dns.name
import dns.rrset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandpit.contract.egress import (
    CLOSED_RANGES,
    MAX_RULES,
    NameSet,
    address_range,
    compile_rules,
    denies_everything,
    labels_of,
)
from sandpit.contract.errors import NodeError
from sandpit.contract.node import NetworkPolicy
from sandpit.control.errors import InvalidRequestError
from sandpit.control.lifecycle.network import check_egress
from sandpit.node.network import dnswire
from sandpit.node.network.dnswire import MalformedError

A, TXT, AAAA, HTTPS = 1, 16, 28, 65
PUBLIC_SPACE = [
    str(block)
    for first, last in [
        ("1.0.0.0", "9.255.255.255"), ("11.0.0.0", "100.63.255.255"), ("100.128.0.0", "126.255.255.255"),
        ("128.0.0.0", "169.253.255.255"), ("169.255.0.0", "172.15.255.255"), ("172.32.0.0", "191.255.255.255"),
        ("192.0.1.0", "192.167.255.255"), ("192.169.0.0", "198.17.255.255"), ("198.20.0.0", "223.255.255.255"),
    ]
    for block in summarize_address_range(Address(first), Address(last))
]  # fmt: skip


@pytest.mark.parametrize(
    "deny",
    [["0.0.0.0/0"], ["255.255.255.255/0"], ["0.0.0.0/00"], ["0.0.0.0/1", "128.0.0.0/1"], ["0.0.0.0/1", "128.0.0.0/2", "192.0.0.0/2"],
     PUBLIC_SPACE, [*PUBLIC_SPACE[::-1], "8.8.8.8"]],
)  # fmt: skip
def test_nothing_left_is_nothing_in_any_notation(deny: list[str]) -> None:
    assert denies_everything(deny)
    rules = compile_rules(NetworkPolicy(deny_out=tuple(deny)))
    assert rules.only_listed
    assert not rules.may_ask(labels_of("one.example"), A)
    check_egress({"allowOut": ["one.example"], "denyOut": deny}, None)


@pytest.mark.parametrize("left", [0, 7, len(PUBLIC_SPACE) - 1])
def test_a_hole_is_a_hole(left: int) -> None:
    deny = PUBLIC_SPACE[:left] + PUBLIC_SPACE[left + 1 :]
    assert not denies_everything(deny)
    assert compile_rules(NetworkPolicy(deny_out=tuple(deny))).may_ask(labels_of("one.example"), TXT)
    with pytest.raises(InvalidRequestError):
        check_egress({"allowOut": ["one.example"], "denyOut": deny}, None)
    # The same, if only the allow list leaves it open: then it is a list of what may be reached.
    assert compile_rules(NetworkPolicy(allow_out=(PUBLIC_SPACE[left],), deny_out=tuple(deny))).only_listed


def test_allowing_everything_is_no_list() -> None:
    rules = compile_rules(NetworkPolicy(allow_out=("0.0.0.0/0",), deny_out=("0.0.0.0/0",)))
    assert rules.may_ask(labels_of("one.example"), TXT)


_blocks = st.builds(lambda number, bits: f"{Address(number)}/{bits}", st.integers(0, 2**32 - 1), st.integers(0, 32))


@settings(max_examples=150, deadline=None, database=None)
@given(st.lists(_blocks, max_size=8))
def test_coverage_is_exact(deny: list[str]) -> None:
    networks = [IPv4Network(one, strict=False) for one in (*deny, *CLOSED_RANGES)]
    everything = list(collapse_addresses(networks)) == [IPv4Network("0.0.0.0/0")]
    assert denies_everything(deny) is everything


@pytest.mark.parametrize(
    "text",
    ["", "1", "1.2.3", "1.2.3.4.5", "256.1.1.1", "01.2.3.4", "1.2.3.4/33", "1.2.3.4/-1", "1.2.3.4/255.0.0.0", " 1.2.3.4", "1.2.3.4\n",
     "\u0661.2.3.4", "::/0", "0/0", "0x1.2.3.4", "1.2.3.4/", "one.example"],
)  # fmt: skip
def test_what_is_no_address(text: str) -> None:
    assert address_range(text) is None
    with pytest.raises(InvalidRequestError):
        check_egress({"denyOut": [text]}, None)


@pytest.mark.parametrize(
    "text",
    ["a..b", ".a", "a.", "*.", "*", "*a.b", "a.*.b", "*.*.b", "-a.b", "a-.b", "a b", r"a\046b", "b\u00fccher.example", "\u212a.example",
     "a" * 64 + ".b", ".".join(["a" * 60] * 5), "a.1", "a/b", "a:80", "evil.example\0.com", "one.example\n"],
)  # fmt: skip
def test_names_that_cannot_be_a_rule(text: str) -> None:
    if text == "*":
        check_egress({"allowOut": [text], "denyOut": ["0.0.0.0/0"]}, None)
        return
    with pytest.raises(InvalidRequestError):
        check_egress({"allowOut": [text], "denyOut": ["0.0.0.0/0"]}, None)


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("*.example.com", (b"www", b"example", b"com"), True), ("*.example.com", (b"a", b"b", b"example", b"com"), True),
        ("*.example.com", (b"example", b"com"), False), ("*.example.com", (b"evil.example", b"com"), False),
        ("*.example.com", (b"x.example", b"com"), False), ("*.example.com", (b"x.example.com",), False),
        ("*.example.com", (b"wexample", b"com"), False), ("example.com", (b"example.com",), False),
        ("example.com", (b"example", b"com"), True), ("example.com", (b"www", b"example", b"com"), False),
        ("EXAMPLE.com", (b"example", b"com"), True), ("*", (b"x",), True), ("*", (), True), ("*.com", (), False),
        ("a.b", (b"a\\046b",), False), ("xn--bcher-kva.example", (b"xn--bcher-kva", b"example"), True),
    ],
)  # fmt: skip
def test_names_are_compared_by_labels(pattern: str, name: tuple[bytes, ...], matches: bool) -> None:
    assert (name in NameSet([pattern.lower()])) is matches


def test_an_allowed_name_may_be_connected_to_and_no_more() -> None:
    rules = compile_rules(NetworkPolicy(allow_out=("one.example",), deny_out=("0.0.0.0/0",)))
    name = labels_of("one.example")
    assert [rules.may_ask(name, kind) for kind in (A, AAAA, HTTPS, TXT, 10, 255)] == [
        True,
        True,
        True,
        False,
        False,
        False,
    ]


def test_a_node_takes_a_bounded_number_of_rules() -> None:
    with pytest.raises(NodeError):
        compile_rules(NetworkPolicy(deny_out=("1.2.3.4",) * (MAX_RULES + 1)))


@settings(max_examples=500, deadline=None, database=None)
@given(st.one_of(st.binary(max_size=80), st.binary(max_size=60).map(lambda tail: b"\1\2\1\0\0\1\0\0\0\0\0\0" + tail)))
def test_any_bytes_are_a_query_or_refused(wire: bytes) -> None:
    try:
        query = dnswire.parse_query(wire)
    except MalformedError:
        answer = dnswire.refusal_of(wire)
        assert answer is None or len(answer) == 12
        return
    read = dns.message.from_wire(wire).question[0].name.labels
    assert tuple(label.lower() for label in read if label) == query.name
    for built in (dnswire.failure(query, dnswire.REFUSED), dnswire.upstream_query(query, b"ab")):
        dns.message.from_wire(built)
    assert not dnswire.answers(wire, query, wire[:2])


@settings(max_examples=500, deadline=None, database=None)
@given(st.binary(max_size=120), st.integers(0, 6))
def test_any_bytes_of_an_answer_are_read_in_bounded_steps(tail: bytes, count: int) -> None:
    query = dnswire.parse_query(dns.message.make_query("www.one.example", "A").to_wire())
    wire = b"ab\x81\x80\0\1\0" + bytes([count]) + bytes(4) + query.question + tail
    assert dnswire.answers(wire, query, b"ab")
    with contextlib.suppress(MalformedError):
        assert all(address_range(one) for one in dnswire.addresses(wire, query))


def test_addresses_are_those_of_the_name_that_was_asked() -> None:
    asked = dns.message.make_query("WWW.one.example", "A")
    query = dnswire.parse_query(asked.to_wire())
    answer = dns.message.make_response(asked)
    for text in ("www.one.example. 1 IN CNAME cdn.example.", "cdn.example. 1 IN CNAME edge.cdn.example.",
                 "edge.cdn.example. 1 IN A 203.0.113.1", "stray.example. 1 IN A 203.0.113.2"):  # fmt: skip
        owner, ttl, clas, kind, data = text.split()
        answer.answer.append(dns.rrset.from_text(owner, int(ttl), clas, kind, data))
    wire = answer.to_wire()
    assert dnswire.addresses(wire, query) == ["203.0.113.1"]
    assert dns.message.from_wire(dnswire.for_client(wire, query, tcp=False)).id == asked.id


def test_large_answers_are_shortened_for_udp_only() -> None:
    asked = dns.message.make_query("one.example", "TXT")
    query = dnswire.parse_query(asked.to_wire())
    answer = dns.message.make_response(asked)
    answer.answer.append(dns.rrset.from_text("one.example.", 1, "IN", "TXT", *[f'"{"x" * 200}{n}"' for n in range(9)]))
    wire = answer.to_wire()
    short = dns.message.from_wire(dnswire.for_client(wire, query, tcp=False))
    assert short.flags & dns.flags.TC
    assert not short.answer
    assert dns.message.from_wire(dnswire.for_client(wire, query, tcp=True)).answer == answer.answer
