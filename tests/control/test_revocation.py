"""What was revoked is refused at once, whatever look-up was under way."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from tests.api.conftest import api_client
from tests.api.test_builds import link, request

from sandpit.control.errors import NotFoundError, UnauthorizedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.api.memory_node import MemoryNode

    from sandpit.control.app import ControlPlane
    from sandpit.store.database import Database


class SlowReads:
    """A store whose answers are held back after they were read."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.read_it, self.go_on = asyncio.Event(), asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Any]:
        async with self._database.read() as session:
            yield session
            self.read_it.set()
            await self.go_on.wait()


@pytest.mark.parametrize("kind", ["key", "token"])
async def test_a_look_up_that_was_under_way(control: ControlPlane, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    keys, teams = control.services.keys, control.services.teams
    team = await teams.find("default")
    assert team is not None
    user = await teams.create_user("somebody@example.com", team.id)
    row, raw = await (keys.create(team.id, "k") if kind == "key" else keys.create_token(user.id, "t"))
    look_up = keys.authenticate if kind == "key" else keys.authenticate_token
    slow = SlowReads(control.database)
    monkeypatch.setattr(keys, "_database", slow)
    asking = asyncio.create_task(look_up(raw))
    await slow.read_it.wait()
    await (keys.revoke(team.id, row.id) if kind == "key" else keys.revoke_token(user.id, row.id))
    slow.go_on.set()
    with pytest.raises(UnauthorizedError):
        await asking
    with pytest.raises(UnauthorizedError):
        await look_up(raw)
    assert not keys._cache


async def test_many_at_once_while_it_is_revoked(control: ControlPlane) -> None:
    """Whoever asks after the revocation was answered is refused."""
    keys = control.services.keys
    team = await control.services.teams.find("default")
    assert team is not None
    for _ in range(20):
        key, raw = await keys.create(team.id, "k")
        asking = [asyncio.create_task(keys.authenticate(raw)) for _ in range(10)]
        await asyncio.sleep(0)
        await keys.revoke(team.id, key.id)
        with pytest.raises(UnauthorizedError):
            await keys.authenticate(raw)
        await asyncio.gather(*asking, return_exceptions=True)
        with pytest.raises(UnauthorizedError):
            await keys.authenticate(raw)


async def test_a_template_that_is_made_private_or_deleted(
    control: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a name may be used for is remembered for a moment: not what was read before a change."""
    templates = control.services.templates
    who = await control.services.keys.authenticate(str(control.first_key))
    slow = SlowReads(control.database)
    monkeypatch.setattr(templates, "_database", slow)
    asking = asyncio.create_task(templates.resolve(who, "base"))
    await slow.read_it.wait()
    async with control.database.write() as session:
        from sqlalchemy import delete

        from sandpit.store.models import TemplateTag

        await session.execute(delete(TemplateTag))
    templates.changed()
    slow.go_on.set()
    with pytest.raises(NotFoundError):
        await asking
    assert not templates._resolved


async def test_a_link_is_worth_as_much_as_its_key(control: ControlPlane, node: MemoryNode) -> None:
    """An upload link that was made with a key that is revoked by now."""
    keys = control.services.keys
    team = await control.services.teams.find("default")
    assert team is not None
    key, raw = await keys.create(team.id, "k")
    async with api_client(control, raw) as client:
        made = await request(client)
        path = urlsplit((await link(client, made["templateID"]))["url"]).path
        assert (await client.put(path, content=b"an archive")).status_code == 200
        await keys.revoke(team.id, key.id)
        assert (await client.put(path, content=b"an archive")).status_code == 403
        assert (await client.get("/v2/sandboxes")).status_code == 401
