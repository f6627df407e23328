"""The SDK against a real server, found as users' programs find it: by variables of the environment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from tests.clients.flavours import got

from sandpit import AsyncCodeInterpreter, AsyncSandbox, CodeInterpreter, Sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import httpx
    from tests.live import Live


@dataclass(frozen=True)
class Flavour:
    """The classes of one flavour."""

    name: str
    Sandbox: Any
    CodeInterpreter: Any


BLOCKING = Flavour("blocking", Sandbox, CodeInterpreter)
ASYNC = Flavour("async", AsyncSandbox, AsyncCodeInterpreter)
blocking_only = pytest.mark.parametrize("flavour", [BLOCKING], ids=["blocking"], indirect=True)
async_only = pytest.mark.parametrize("flavour", [ASYNC], ids=["async"], indirect=True)
"""For tests that take their time and whose code is the same in both flavours: one is made from the other."""


@dataclass(frozen=True)
class Team:
    """Who these tests are, to the server."""

    variables: dict[str, str]
    api: httpx.Client
    key: str

    def call(self, method: str, path: str, **body: Any) -> httpx.Response:
        """Call the API without the SDK."""
        return self.api.request(method, path, headers={"X-API-KEY": self.key}, **body)

    def create(self, template: str) -> str:
        """A sandbox that nobody keeps alive; its id."""
        answer = self.call("POST", "/v2/sandboxes", json={"templateID": template, "timeout": 900})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["sandboxID"])

    def running(self) -> set[str]:
        found = self.call("GET", "/v2/sandboxes").json()
        return {sandbox["sandboxID"] for sandbox in found}


@pytest.fixture(scope="session")
def key(live: Live) -> str:
    """The key of a team that has no other sandboxes than these tests'."""
    return live.another_team()


@pytest.fixture(scope="module")
def team(live: Live, key: str) -> Iterator[Team]:
    """The team, whose key is set for the programs of this module and for the SDK in this process."""
    variables = {"SANDPIT_API_KEY": key, "SANDPIT_API_URL": live.api_url, "SANDPIT_SANDBOX_URL": live.edge_url}
    team = Team(variables, live.api, key)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SANDPIT_DOMAIN", raising=False)
        patch.delenv("E2B_DOMAIN", raising=False)
        for name, value in variables.items():
            patch.setenv(name, value)
        yield team
    for sandbox_id in team.running():
        team.call("DELETE", f"/sandboxes/{sandbox_id}")


@pytest.fixture
def tidy(team: Team) -> Iterator[None]:
    """End the sandboxes that a test makes and closes: they would live some seconds more."""
    before = team.running()
    yield
    for sandbox_id in team.running() - before:
        team.call("DELETE", f"/sandboxes/{sandbox_id}")


@pytest.fixture(params=(BLOCKING, ASYNC), ids=lambda flavour: flavour.name)
def flavour(request: pytest.FixtureRequest, team: Team) -> Flavour:
    """Each test that takes it runs once with each."""
    chosen: Flavour = request.param
    return chosen


@pytest.fixture(scope="module")
def base_id(team: Team) -> str:
    """The module's sandbox of `base`."""
    return team.create("base")


@pytest.fixture(scope="module")
def interpreter_id(team: Team) -> str:
    """The module's sandbox with an interpreter."""
    return team.create("code-interpreter-v1")


@pytest_asyncio.fixture
async def sandbox(flavour: Flavour, base_id: str) -> AsyncIterator[Any]:
    """The module's sandbox, through an object of this test's own: nothing of it may be left when it is closed."""
    opened = await got(flavour.Sandbox.reconnect(base_id))
    yield opened
    await got(opened.close())


@pytest_asyncio.fixture
async def interpreter(flavour: Flavour, interpreter_id: str) -> AsyncIterator[Any]:
    """The same with an interpreter."""
    opened = await got(flavour.CodeInterpreter.reconnect(interpreter_id))
    yield opened
    await got(opened.close())
