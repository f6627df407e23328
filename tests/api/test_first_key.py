"""The operator's key in its file: after each start it is there and works, and the store has no key that nobody can know."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.api.conftest import api_client
from tests.api.memory_node import MemoryNode

from sandpit.control.accounts import firstkey
from sandpit.control.app import ControlPlane
from sandpit.lib.private import replace_private

if TYPE_CHECKING:
    from pathlib import Path

    from sandpit.server.settings import Settings


async def started(settings: Settings) -> tuple[str, list[str]]:
    """A start: the key in the file, which must work, and the names of all keys of the default team."""
    async with ControlPlane(settings, MemoryNode()) as control:
        key = settings.key_file.read_text().strip()
        assert control.first_key in (key, None)
        async with api_client(control, key) as client:
            answer = await client.get("/api-keys")
            assert answer.status_code == 200
            return key, [one["name"] for one in answer.json()]


@pytest.mark.parametrize("damage", [None, b"", b"e2b_", b"e2b_" + 40 * b"0", b"\xff\xfe"])
async def test_a_key_that_is_lost(settings: Settings, damage: bytes | None) -> None:
    first, names = await started(settings)
    assert names == ["first key"]
    assert await started(settings) == (first, names), "a good one stays"
    file = settings.key_file
    file.unlink() if damage is None else file.write_bytes(damage)
    second, names = await started(settings)
    assert second != first
    assert names == ["first key", "first key"]
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in settings.data_dir.glob("*.new")] == []


async def test_killed_between_the_file_and_the_store(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key was never valid, and nobody has seen it; the store does not know it."""

    def last_words(path: Path, text: str) -> None:
        replace_private(path, text)
        raise SystemExit

    monkeypatch.setattr(firstkey, "replace_private", last_words)
    with pytest.raises(SystemExit):
        await started(settings)
    lost = settings.key_file.read_text().strip()
    monkeypatch.undo()
    key, names = await started(settings)
    assert key != lost
    assert names == ["first key"]


async def test_a_key_that_was_revoked_stays_so(settings: Settings) -> None:
    async with ControlPlane(settings, MemoryNode()) as control, api_client(control, control.first_key) as client:
        revoked = str(control.first_key)
        [row] = (await client.get("/api-keys")).json()
        assert (await client.delete(f"/api-keys/{row['id']}")).status_code == 204
    key, names = await started(settings)
    assert key != revoked
    assert names == ["first key"]
    async with ControlPlane(settings, MemoryNode()) as control, api_client(control, revoked) as client:
        assert (await client.get("/api-keys")).status_code == 401


async def test_another_key_of_this_server_in_the_file(settings: Settings) -> None:
    """Whoever puts one there keeps it."""
    async with ControlPlane(settings, MemoryNode()) as control:
        team = await control.services.teams.create("Others")
        _, other = await control.services.keys.create(team.id, "theirs")
    settings.key_file.write_text(f"{other}\n")
    key, names = await started(settings)
    assert (key, names) == (other, ["theirs"])
