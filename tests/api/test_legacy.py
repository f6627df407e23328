"""What the clients of 2024 are told differently on the routes that they share with later ones (legacy-protocol 2.3, 2.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.api.conftest import api_client

from sandpit.control.app import ControlPlane

if TYPE_CHECKING:
    from tests.api.memory_node import MemoryNode

    from sandpit.server.settings import Settings

OF_2024 = {"publisher": "e2b", "package_version": "0.16.2"}
LATER = {"publisher": "e2b", "package_version": "1.0.5"}
FIELDS = {"templateID", "sandboxID", "clientID", "startedAt", "endAt", "cpuCount", "memoryMB", "alias", "metadata"}


@pytest.mark.parametrize(("headers", "unknown", "too_many"), [(OF_2024, 500, 403), (LATER, 404, 429), ({}, 404, 429)])
async def test_statuses(
    settings: Settings, node: MemoryNode, headers: dict[str, str], unknown: int, too_many: int
) -> None:
    limits = settings.limits.model_copy(update={"max_sandboxes": 1})
    async with (
        ControlPlane(settings.model_copy(update={"limits": limits}), node) as control,
        api_client(control, control.first_key) as client,
    ):
        client.headers.update(headers)
        refused = await client.post("/sandboxes", json={"templateID": "none"})
        assert (refused.status_code, refused.json()["code"]) == (unknown, unknown)
        created = await client.post("/sandboxes", json={"templateID": "base", "metadata": {"a": "b"}})
        assert created.status_code == 201
        refused = await client.post("/sandboxes", json={"templateID": "base"})
        assert (refused.status_code, refused.json()["code"]) == (too_many, too_many)
        [item] = (await client.get("/sandboxes")).json()
        assert (set(item) == FIELDS) == (headers == OF_2024)
        assert (await client.delete("/sandboxes/none")).status_code == 404
