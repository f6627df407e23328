"""Lists of sandboxes: filters, order, pages (current-protocol 11.2)."""

from __future__ import annotations

import secrets
from datetime import timedelta, timezone
from typing import TYPE_CHECKING, Any

import e2b
import pytest
from tests.clients.flavours import got

if TYPE_CHECKING:
    from tests.clients.flavours import Create, Flavour
    from tests.live import Live


async def pages(flavour: Flavour, metadata: dict[str, str] | None = None, **options: Any) -> list[list[str]]:
    """The ids of every page."""
    query = e2b.SandboxQuery(metadata=metadata, **{name: options.pop(name) for name in list(options) if name in QUERY})
    paginator = flavour.Sandbox.list(query=query, **options)
    found = []
    while paginator.has_next:
        found.append([info.sandbox_id for info in await got(paginator.next_items())])
        assert len(found) < 100
    return found


QUERY = {"state", "started_after", "template"}


@pytest.fixture
def mark() -> dict[str, str]:
    """Metadata that only this test's sandboxes have."""
    return {"mark": secrets.token_hex(8)}


async def test_without_a_filter(create: Create, flavour: Flavour) -> None:
    sandbox = await create()
    first = await got(flavour.Sandbox.list().next_items())
    assert first[0].sandbox_id == sandbox.sandbox_id
    assert first[0].state == e2b.SandboxState.RUNNING
    assert first[0].name == "base"
    assert first[0].end_at > first[0].started_at
    assert sandbox.sandbox_id in [one for page in await pages(flavour) for one in page]


async def test_metadata(create: Create, flavour: Flavour, mark: dict[str, str]) -> None:
    odd = {**mark, "a b": "c&d=e/%41+", "ü": "☃"}
    sandbox, other = await create(metadata=odd), await create(metadata=mark)
    assert await pages(flavour, odd) == [[sandbox.sandbox_id]]
    assert await pages(flavour, {**mark, "ü": "☃"}) == [[sandbox.sandbox_id]]
    assert await pages(flavour, mark) == [[other.sandbox_id, sandbox.sandbox_id]]
    assert await pages(flavour, {**mark, "ü": "x"}) == [[]]
    assert await pages(flavour, {**mark, "absent": ""}) == [[]]


async def test_state(create: Create, flavour: Flavour, mark: dict[str, str]) -> None:
    sandbox = await create(metadata=mark)
    running, paused = e2b.SandboxState.RUNNING, e2b.SandboxState.PAUSED
    assert await pages(flavour, mark, state=[running]) == [[sandbox.sandbox_id]]
    assert await pages(flavour, mark, state=[paused]) == [[]]
    assert await pages(flavour, mark, state=[running, paused]) == [[sandbox.sandbox_id]]


async def test_pages_and_order(create: Create, flavour: Flavour, mark: dict[str, str]) -> None:
    ids = [(await create(metadata=mark)).sandbox_id for _ in range(3)]
    newest_first = ids[::-1]
    assert await pages(flavour, mark) == [newest_first]
    assert await pages(flavour, mark, limit=1) == [[one] for one in newest_first]
    assert await pages(flavour, mark, limit=2) == [newest_first[:2], newest_first[2:]]
    assert await pages(flavour, mark, limit=3) == [newest_first]
    assert await pages(flavour, mark, order="desc", limit=2) == [newest_first[:2], newest_first[2:]]
    assert await pages(flavour, mark, order="asc", limit=2) == [ids[:2], ids[2:]]


async def test_a_page_by_its_token(create: Create, flavour: Flavour, mark: dict[str, str]) -> None:
    ids = [(await create(metadata=mark)).sandbox_id for _ in range(2)]
    query = e2b.SandboxQuery(metadata=mark)
    first = flavour.Sandbox.list(query=query, limit=1)
    assert first.has_next
    assert [info.sandbox_id for info in await got(first.next_items())] == ids[1:]
    assert first.has_next
    assert first.next_token
    second = flavour.Sandbox.list(query=query, limit=1, next_token=first.next_token)
    assert [info.sandbox_id for info in await got(second.next_items())] == ids[:1]
    assert not second.has_next
    with pytest.raises(e2b.SandboxException, match="Invalid next token"):
        await got(flavour.Sandbox.list(next_token="nonsense").next_items())


async def test_pages_hold_while_the_list_changes(create: Create, flavour: Flavour, mark: dict[str, str]) -> None:
    ids = [(await create(metadata=mark)).sandbox_id for _ in range(3)]
    paginator = flavour.Sandbox.list(query=e2b.SandboxQuery(metadata=mark), limit=1)
    assert [info.sandbox_id for info in await got(paginator.next_items())] == [ids[2]]
    await create(metadata=mark)  # newer than the first page
    await got(flavour.Sandbox.kill(ids[1]))
    assert [info.sandbox_id for info in await got(paginator.next_items())] == [ids[0]]
    assert not paginator.has_next


async def test_started_after(create: Create, flavour: Flavour, mark: dict[str, str]) -> None:
    sandbox = await create(metadata=mark)
    started = (await got(sandbox.get_info())).started_at
    far = timezone(timedelta(hours=-9, minutes=-30))
    for moment in (started, started - timedelta(seconds=5), (started - timedelta(seconds=1)).astimezone(far)):
        assert await pages(flavour, mark, started_after=moment) == [[sandbox.sandbox_id]]
    for moment in (started + timedelta(microseconds=1), (started + timedelta(seconds=1)).astimezone(far)):
        assert await pages(flavour, mark, started_after=moment) == [[]]


async def test_template(create: Create, flavour: Flavour, mark: dict[str, str]) -> None:
    sandbox = await create(metadata=mark)
    template_id = (await got(sandbox.get_info())).template_id
    assert await pages(flavour, mark, template="base") == [[sandbox.sandbox_id]]
    assert await pages(flavour, mark, template=template_id) == [[sandbox.sandbox_id]]
    assert await pages(flavour, mark, template="code-interpreter-v1") == [[]]
    assert await pages(flavour, mark, template="unknown-template") == [[]]
    with pytest.raises(e2b.SandboxException) as raised:
        await pages(flavour, mark, template="base:default")
    assert raised.value.status_code == 400


def test_first_generation_list(clients: dict[str, str], live: Live, mark: dict[str, str]) -> None:
    """Newest first, running only, without pages."""
    with e2b.Sandbox.create(metadata=mark) as one, e2b.Sandbox.create(metadata=mark) as two:
        found = live.api.get("/sandboxes", params={"metadata": f"mark={mark['mark']}"})
        assert found.status_code == 200
        assert [item["sandboxID"] for item in found.json()] == [two.sandbox_id, one.sandbox_id]
