"""JSON that no program means well: the agent and the interpreter refuse it, and go on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from sandpit.guest.agent import fields
from sandpit.guest.agent.connect_wire import ConnectError, decode
from sandpit.guest.interpreter.jupyter import app
from sandpit.guest.interpreter.schemas import InvalidBodyError, parse_execution

if TYPE_CHECKING:
    from starlette.types import Message

HOSTILE = (b"[" * 100_000, b'{"a":' * 100_000, b"9" * 10_000, b"\xff", b"[]", b"5")


@pytest.mark.parametrize("body", HOSTILE, ids=lambda body: repr(body[:10]))
async def test_bodies(body: bytes) -> None:
    with pytest.raises(ConnectError):
        decode(body)
    with pytest.raises(InvalidBodyError):
        parse_execution(body)

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    with pytest.raises(HTTPException):
        await app._body(Request({"type": "http", "headers": []}, receive))


@pytest.mark.parametrize("value", ["9" * 10_000, "4294967296", -1, 2**64, True, 1.0, "1e3", "-1"])
def test_numbers(value: object) -> None:
    with pytest.raises(ConnectError):
        fields.uint32({"pid": value}, "pid")
    assert fields.uint32({"pid": "4294967295"}, "pid") == 2**32 - 1
