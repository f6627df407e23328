"""DNS messages (RFC 1035, 6891), as far as a relay must read them: strictly, in time that grows with their size only.

Nothing of a query is passed on but its question: it is written anew, so that no other field carries anything out.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass

from sandpit.contract.egress import Labels

MAX_QUERY = 1232
"""Bytes of a query: one question of at most 259 and an OPT record with some options. Also the largest UDP answer (DNS flag day 2020)."""
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = range(6)
_HEADER = 12
_MAX_RECORDS = 256
"""Records of one answer that are looked at."""
_MAX_NAME = 255
_MIN_UDP = 512
_A, _CNAME, _OPT, _IN = 1, 5, 41, 1
_QR, _OPCODE, _TC, _RD, _RA, _AD, _CD = 0x8000, 0x7800, 0x0200, 0x0100, 0x0080, 0x0020, 0x0010
_DO = 0x8000


class MalformedError(Exception):
    """Not a message that is accepted here."""


@dataclass(frozen=True, slots=True)
class Query:
    """A checked query with one question of class IN."""

    ident: bytes
    flags: int
    question: bytes
    """As it was sent: name, type, class."""
    name: Labels
    kind: int
    udp_size: int | None
    """What the client takes by UDP; None without EDNS."""
    wants_signatures: bool

    @property
    def asked(self) -> bytes:
        """The question in lower case; lengths of labels (at most 63) are no letters."""
        return self.question[:-4].lower() + self.question[-4:]

    @property
    def room(self) -> int:
        """Largest answer in bytes that the client takes by UDP."""
        return min(max(self.udp_size or _MIN_UDP, _MIN_UDP), MAX_QUERY)


def parse_query(wire: bytes) -> Query:
    """Raises: MalformedError for anything but a standard query with one question and at most an OPT record."""
    if not _HEADER < len(wire) <= MAX_QUERY:
        raise MalformedError
    flags = _number(wire, 2)
    counts = [_number(wire, at) for at in (4, 6, 8, 10)]
    if flags & (_QR | _OPCODE) or counts[:3] != [1, 0, 0] or counts[3] > 1:
        raise MalformedError
    name, end = _plain_name(wire, _HEADER)
    if end + 4 > len(wire) or _number(wire, end + 2) != _IN:
        raise MalformedError
    question, kind, end = wire[_HEADER : end + 4], _number(wire, end), end + 4
    size, signatures = None, False
    if counts[3]:
        if wire[end : end + 3] != b"\0\0\x29" or end + 11 > len(wire):
            raise MalformedError
        size, signatures = _number(wire, end + 3), bool(_number(wire, end + 7) & _DO)
        end += 11 + _number(wire, end + 9)
    if end != len(wire):
        raise MalformedError
    return Query(wire[:2], flags, question, name, kind, size, signatures)


def upstream_query(query: Query, ident: bytes) -> bytes:
    """The same question, from us."""
    flags = query.flags & (_RD | _AD | _CD)
    extra = query.udp_size is not None
    return _header(ident, flags, 1, 1 if extra else 0) + query.asked + (_opt(query) if extra else b"")


def answers(wire: bytes, query: Query, ident: bytes) -> bool:
    """Whether a message answers our question; anything else is forged, late or broken."""
    asked = query.asked
    if len(wire) < _HEADER + len(asked) or wire[:2] != ident or _number(wire, 4) != 1:
        return False
    flags = _number(wire, 2)
    question = wire[_HEADER : _HEADER + len(asked)]
    return bool(flags & _QR) and not flags & _OPCODE and question[:-4].lower() + question[-4:] == asked


def rcode(wire: bytes) -> int:
    """The result that an answer's header has."""
    return wire[3] & 0x0F


def is_truncated(wire: bytes) -> bool:
    """Whether the whole answer comes by TCP only."""
    return bool(_number(wire, 2) & _TC)


def for_client(wire: bytes, query: Query, *, tcp: bool) -> bytes:
    """An upstream's answer with the client's own identifier and question; shortened if it is too large for UDP."""
    if not tcp and len(wire) > query.room:
        flags = _number(wire, 2) | _TC
        return _header(query.ident, flags, 1, 0) + query.question
    return query.ident + wire[2:_HEADER] + query.question + wire[_HEADER + len(query.question) :]


def failure(query: Query, code: int) -> bytes:
    """An answer without records."""
    flags = _QR | _RA | (query.flags & (_RD | _CD)) | code
    extra = query.udp_size is not None
    return _header(query.ident, flags, 1, 1 if extra else 0) + query.question + (_opt(query) if extra else b"")


def refusal_of(wire: bytes) -> bytes | None:
    """What answers a message that is no acceptable query: FORMERR, or NOTIMP for other operations; None for what is no query."""
    if len(wire) < _HEADER or _number(wire, 2) & _QR:
        return None
    flags = _number(wire, 2) & (_OPCODE | _RD)
    return _header(wire[:2], _QR | flags | (NOTIMP if flags & _OPCODE else FORMERR), 0, 0)


def addresses(wire: bytes, query: Query) -> list[str]:
    """The IPv4 addresses of the name that was asked for, along its aliases. Raises: MalformedError."""
    names, found = {query.name}, []
    at = _HEADER + len(query.question)
    for _ in range(min(_number(wire, 6), _MAX_RECORDS)):
        owner, at = _name(wire, at)
        if at + 10 > len(wire):
            raise MalformedError
        kind, size, data = _number(wire, at), _number(wire, at + 8), at + 10
        at = data + size
        if at > len(wire):
            raise MalformedError
        if owner not in names or _number(wire, data - 8) != _IN:
            continue
        if kind == _A and size == 4:
            found.append(socket.inet_ntop(socket.AF_INET, wire[data:at]))
        elif kind == _CNAME:
            names.add(_name(wire, data)[0])
    return found


def _number(wire: bytes, at: int) -> int:
    return wire[at] << 8 | wire[at + 1]


def _header(ident: bytes, flags: int, questions: int, additional: int) -> bytes:
    numbers = (flags, questions, 0, 0, additional)
    return ident + b"".join(number.to_bytes(2, "big") for number in numbers)


def _opt(query: Query) -> bytes:
    flags = _DO if query.wants_signatures else 0
    return b"\0" + b"".join(number.to_bytes(2, "big") for number in (_OPT, MAX_QUERY, 0, flags, 0))


def _plain_name(wire: bytes, at: int) -> tuple[Labels, int]:
    """A name without pointers, which a question has no use for, and the offset behind it. Raises: MalformedError."""
    labels, start = [], at
    while at < len(wire) and (length := wire[at]):
        at += 1 + length
        if length > 63 or at - start >= _MAX_NAME or at >= len(wire):
            raise MalformedError
        labels.append(wire[at - length : at].lower())
    if at >= len(wire):
        raise MalformedError
    return tuple(labels), at + 1


def _name(wire: bytes, at: int) -> tuple[Labels, int]:
    """A name, and the offset behind it. Pointers lead back only, so they end. Raises: MalformedError."""
    labels: list[bytes] = []
    end, earliest, size = 0, at, 0
    while True:
        if at >= len(wire):
            raise MalformedError
        length = wire[at]
        if length >= 0xC0:
            target = (length & 0x3F) << 8 | wire[at + 1] if at + 1 < len(wire) else len(wire)
            if target >= earliest:
                raise MalformedError
            end, at, earliest = end or at + 2, target, target
            continue
        size += 1 + length
        if length > 63 or size > _MAX_NAME:
            raise MalformedError
        if not length:
            return tuple(labels), end or at + 1
        labels.append(wire[at + 1 : at + 1 + length].lower())
        at += 1 + length
