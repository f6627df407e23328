"""What limits a log: in the sandbox, where any number of events can happen, and on the node, which believes none of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from sandpit.guest.agent.control.journal import BATCH_EVENTS, MAX_EVENTS, MAX_VALUE, Journal
from sandpit.lib.tasks import Tasks
from sandpit.node.guests.agent import Agent
from sandpit.node.guests.control_secret import ControlSecret
from sandpit.node.guests.log import MAX_EVENTS as MAX_PARSED
from sandpit.node.guests.log import MAX_FIELDS, MAX_TEXT, parse
from sandpit.node.guests.tails import Tails
from sandpit.protocol import ports

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NOW = 1_800_000_000.0
SOON = int(NOW * 1e6)


def event(**changes: Any) -> dict[str, Any]:
    return {"position": SOON, "level": "info", "logger": "process", "message": "m", "fields": {}} | changes


def body(*events: Any) -> bytes:
    return json.dumps({"events": events}).encode()


async def test_a_journal_drops_the_oldest_and_says_so() -> None:
    journal = Journal()
    for n in range(MAX_EVENTS + 10):
        journal.add("process", "info", str(n), cmd="x" * 5000, tag=None)
    seen, position = [], 0
    while batch := journal.after(position):
        assert len(batch) <= BATCH_EVENTS
        seen += batch
        position = batch[-1]["position"]
    assert seen[0]["message"] == "10 events are missing: more came than were fetched"
    assert [found["message"] for found in seen[1:]] == [str(n) for n in range(10, MAX_EVENTS + 10)]
    positions = [found["position"] for found in seen]
    assert positions == sorted(set(positions))
    assert len(seen[1]["fields"]["cmd"]) <= MAX_VALUE + 3
    assert "tag" not in seen[1]["fields"]


async def test_a_journal_keeps_what_was_fetched_while_there_is_room() -> None:
    """A server may die between fetching and storing; what it has stored is no loss when it goes."""
    journal = Journal()
    for n in range(3):
        journal.add("process", "info", str(n))
    first = journal.after(0)
    assert journal.after(0) == first
    assert journal.after(first[0]["position"]) == first[1:]
    assert journal.after(first[2]["position"]) == []
    assert journal.after(0) == first
    for n in range(MAX_EVENTS):
        journal.add("process", "info", str(n))
    kept = journal.after(first[2]["position"])
    assert [found["message"] for found in kept[:2]] == ["0", "1"]


async def test_waiting_for_an_event() -> None:
    journal = Journal()
    journal.add("process", "info", "old")
    (old,) = journal.after(0)
    waiting = asyncio.ensure_future(journal.newer(old["position"]))
    await asyncio.sleep(0)
    assert not waiting.done()
    journal.add("process", "info", "new")
    await waiting


@pytest.mark.parametrize(
    "given",
    [
        b"", b"[]", b"\xff", b'{"events": 1}', b"[" * 100_000, body(1, None, [], "x"),
        body(event(position="1")), body(event(position=True)), body(event(position=1.5)), body(event(position=-1)),
        body(event(level="loud")), body(event(level=[])), body(event(logger="sandbox")), body(event(logger={})),
        body(event(message=None)), body(event(position=SOON + 3_000_000)),
    ],
    ids=range(16),
)  # fmt: skip
def test_what_no_agent_says_is_left_out(given: bytes) -> None:
    assert parse(given, 0, NOW) == []


def test_good_events_among_bad_ones() -> None:
    found = parse(body(1, event(position=SOON - 2), event(logger="sandbox"), event(position=SOON)), 0, NOW)
    assert [one.position for one in found] == [SOON - 2, SOON]


def test_time_goes_one_way() -> None:
    """Neither before what was told, nor twice the same."""
    given = body(*(event(position=SOON + n) for n in (0, 5, 5, 3, 6)))
    assert [one.position - SOON for one in parse(given, SOON, NOW)] == [5, 6]


def test_size_is_limited() -> None:
    many = body(*(event(position=SOON - 10_000 + n) for n in range(MAX_PARSED + 10)))
    assert len(parse(many, 0, NOW)) == MAX_PARSED
    fields = {f"{n:05}" + "k" * 500: "v" * 50_000 for n in range(50)}
    (found,) = parse(body(event(message="m" * 100_000, fields=fields)), 0, NOW)
    assert len(found.message) == MAX_TEXT
    assert len(found.fields) == MAX_FIELDS
    assert max(map(len, found.fields)) <= 32
    assert max(map(len, found.fields.values())) == MAX_TEXT


def test_no_byte_steers_a_terminal() -> None:
    """Escape sequences, in seven and in eight bits; text that turns around; what a store refuses."""
    text = "a\x1b[2J\x9b31m\x07\r\x00\u202eb\ud800\ttab\nline é"
    (found,) = parse(body(event(message=text, fields={text: text, "n": 7, "l": [1], "big": 10**400})), 0, NOW)
    shown = "a\\u001b[2J\\u009b31m\\u0007\\u000d\\u0000\\u202eb?\ttab\nline é"
    assert found.message == shown
    assert found.fields == {shown[:32]: shown, "n": "7", "l": "", "big": "1" + "0" * 400}
    found.message.encode()


def test_an_honest_agent_is_understood_as_it_is() -> None:
    journal = Journal()
    journal.add("network", "info", "port is listening", port=80)
    journal.warn("disk")
    found = parse(json.dumps({"events": journal.after(0)}).encode(), 0, time.time())
    assert [(one.logger, one.level, one.message, dict(one.fields)) for one in found] == [
        ("network", "info", "port is listening", {"port": "80"}), ("agent", "warn", "disk", {}),
    ]  # fmt: skip


async def test_a_journal_that_drips_delays_no_end(free_agent: str) -> None:
    """An end asks for the last events: for as long as it says, whatever the guest sends."""
    guest = SimpleNamespace(
        container_id="c", sandbox_id="i", ending=False, agent=Agent(free_agent, ControlSecret.new())
    )
    tasks = Tasks()
    tails = Tails(tasks)
    tails.follow(guest, 0)  # type: ignore[arg-type]
    async with asyncio.timeout(20):  # it would drip for ever
        assert await tails.finish(guest) is not None  # type: ignore[arg-type]
    assert tails.stop(guest) is None  # type: ignore[arg-type]
    await tasks.close()
    await guest.agent.close()


@pytest.fixture
async def free_agent() -> AsyncIterator[str]:
    """The address of an agent that answers a byte at a time."""
    over, ended = asyncio.Event(), asyncio.Event()
    ended.set()

    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended.clear()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while not over.is_set():
                writer.write(b"[")
                await writer.drain()
                await asyncio.sleep(0.02)
        writer.close()
        ended.set()

    for last in range(20, 250):  # port 49983 of a loopback address that no other test has
        try:
            server = await asyncio.start_server(drip, f"127.0.9.{last}", ports.AGENT)
        except OSError:
            continue
        yield f"127.0.9.{last}"
        server.close()
        over.set()
        await ended.wait()
        return
    pytest.fail("no address was free")
