"""The life of a sandbox and of the objects that hold it (docs/sdk.md, "How long a sandbox lives")."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import socketserver
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from tests.clients.flavours import got, until
from tests.sdk.conftest import async_only, blocking_only

from sandpit import (
    AsyncSandbox,
    AuthenticationException,
    InvalidArgumentException,
    NotFoundException,
    Sandbox,
    SandboxException,
    SandboxNotFoundException,
    SandboxNotOpenException,
    ServerUnreachableException,
    TimeoutException,
)
from sandpit.sdk._async.lifetime import CREATOR_SECONDS, LEFT_SECONDS, PERIOD_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.sdk.conftest import Flavour, Team

pytestmark = pytest.mark.usefixtures("tidy")


@contextlib.asynccontextmanager
async def opened(flavour: Flavour, *arguments: Any, **options: Any) -> AsyncIterator[Any]:
    """A new sandbox, as its flavour opens it."""
    sandbox = await got(flavour.Sandbox.create(*arguments, **options))
    try:
        yield sandbox
    finally:
        await got(sandbox.close())


def end(team: Team, sandbox_id: str) -> float:
    """The seconds that a sandbox has left, and a negative number when it is gone."""
    answer = team.call("GET", f"/sandboxes/{sandbox_id}")
    if answer.status_code == 404:
        return -1.0
    return (datetime.fromisoformat(answer.json()["endAt"]) - datetime.now(UTC)).total_seconds()


async def test_three_ways_to_open(team: Team) -> None:
    with Sandbox() as blocking:
        assert blocking.is_open
    async with AsyncSandbox("base") as first:
        pass
    second = await AsyncSandbox()
    third = await AsyncSandbox.create(template="base")
    assert team.running() >= {blocking.id, first.id, second.id, third.id}
    await asyncio.gather(second.close(), third.close())
    unopened = AsyncSandbox()
    with pytest.raises(SandboxNotOpenException, match="await it"):
        unopened.get_hostname()


async def test_it_lives_while_it_is_held(team: Team) -> None:
    """All that takes time, at the same time: what keeps sandboxes alive, and what becomes of those that nobody keeps."""
    with Sandbox() as held, Sandbox() as lent, Sandbox() as shared:
        async with AsyncSandbox() as held_too, await AsyncSandbox.reconnect(shared.id):
            first = {one.id: one.get_info().end_at for one in (held, lent, shared)}
            first[held_too.id] = (await held_too.get_info()).end_at
            lent.keep_alive(120)
            lent.close()
            shared.close()
            assert end(team, shared.id) > CREATOR_SECONDS, "its visitor holds it for longer than its creator did"
            await until(lambda: held.get_info().end_at > first[held.id])
            await until(lambda: _later(held_too, first[held_too.id]))
            assert held.process.start_and_wait("echo here").stdout == "here"
            for samples in (await until(held.get_metrics), await until(held_too.get_metrics)):
                assert samples[0].mem_total >= samples[0].mem_used > 0
        held.close()
        for one in (held, held_too):
            assert end(team, one.id) <= LEFT_SECONDS + 1
        again = Sandbox.reconnect(held.id)  # a moment later it is still there
        again.close()
        await until(lambda: held_too.id not in team.running())
        assert end(team, lent.id) > 60
        with Sandbox.reconnect(lent.id) as lent_again:
            assert lent_again.process.start_and_wait("echo still").stdout == "still"


async def _later(sandbox: AsyncSandbox, moment: datetime) -> bool:
    return (await sandbox.get_info()).end_at > moment


def test_the_times_fit_together() -> None:
    assert LEFT_SECONDS > PERIOD_SECONDS, "someone who came in the meantime asks before it ends"
    assert CREATOR_SECONDS >= 3 * PERIOD_SECONDS, "two questions may be lost"


async def test_set_timeout_decides_alone(flavour: Flavour, team: Team) -> None:
    async with opened(flavour) as sandbox:
        await got(sandbox.set_timeout(600))
    assert end(team, sandbox.id) > 500
    async with opened(flavour) as sandbox:
        await got(sandbox.set_timeout(1))
        await until(lambda: sandbox.id not in team.running())
        assert not await got(sandbox.is_running())
        with pytest.raises(SandboxNotFoundException, match="has ended or is paused\n hint: "):
            await got(sandbox.filesystem.read("/etc/hosts"))


async def fill(sandbox: Any) -> None:
    """Write files in memory; who writes dies first."""
    for number in range(100):
        await got(sandbox.process.start_and_wait(f"sudo dd if=/dev/zero of=/mnt/{number} bs=1M count=100"))


@async_only
async def test_an_end_for_want_of_memory_is_told(flavour: Flavour, team: Team) -> None:
    """By files in memory, which are nobody's; also to who waits for a command in it."""
    async with opened(flavour) as sandbox:
        await got(sandbox.process.start_and_wait("sudo mount -t tmpfs memory /mnt"))
        with pytest.raises(SandboxNotFoundException, match="has ended: out of memory"):
            await fill(sandbox)
        with pytest.raises(SandboxNotFoundException, match="has ended: out of memory"):
            await got(sandbox.filesystem.read("/etc/hosts"))


async def test_closed_and_killed(flavour: Flavour) -> None:
    async with opened(flavour) as sandbox:
        waiting = await got(sandbox.process.start("sleep 600"))
        assert sandbox.id in {one.sandbox_id for one in await got(flavour.Sandbox.list())}
        assert await got(flavour.Sandbox.kill(sandbox.id))
        assert sandbox.id not in {one.sandbox_id for one in await got(flavour.Sandbox.list())}
        with pytest.raises(SandboxNotFoundException):
            await got(waiting.wait(30))
    assert not await got(flavour.Sandbox.kill(sandbox.id))
    for call in (sandbox.process.start, sandbox.filesystem.read, sandbox.files.list):
        with pytest.raises(SandboxNotOpenException, match="was closed by this program"):
            await got(call("/etc"))
    with pytest.raises(SandboxNotFoundException, match=r"Sandbox\.list"):
        await got(flavour.Sandbox.reconnect(sandbox.id))
    async with opened(flavour) as sandbox:
        assert await got(sandbox.kill())
        assert not sandbox.is_open


@async_only
async def test_metadata_and_list(flavour: Flavour) -> None:
    about = {"userID": "unique & ID", "ö ": "=%"}
    async with opened(flavour, metadata=about) as sandbox, opened(flavour, metadata={"userID": "another"}):
        found = await got(flavour.Sandbox.list(metadata={"ö ": "=%"}))
        assert [(one.sandbox_id, one.metadata) for one in found] == [(sandbox.id, about)]
        info = await got(sandbox.get_info())
        assert info.metadata == about
        assert (info.alias, info.state, info.cpu_count > 0, info.memory_mb > 0) == ("base", "running", True, True)
        again = await got(flavour.Sandbox.reconnect(f"{sandbox.id}-00000000"))  # an id as 2024 wrote it
        assert again.id == sandbox.id
        await got(again.close())


@blocking_only
async def test_directory_and_environment(flavour: Flavour) -> None:
    async with opened(flavour, cwd="/code-of-mine", env_vars={"FOO": "Hello"}) as sandbox:
        output = await got(sandbox.process.start_and_wait("pwd; echo $FOO; touch here && ls"))
        assert output.stdout == "/code-of-mine\nHello\nhere"
    async with opened(flavour, cwd="~/deep/code/") as sandbox:
        assert (await got(sandbox.process.start_and_wait("pwd"))).stdout == "/home/user/deep/code"


async def test_open_ports_and_host_names(flavour: Flavour, team: Team) -> None:
    seen: list[list[Any]] = []
    async with opened(flavour, on_scan_ports=seen.append) as sandbox:
        await got(sandbox.process.start("python3 -m http.server 8123 --bind 127.0.0.1"))
        await until(lambda: any(port.port == 8123 and port.state == "LISTEN" for ports in seen for port in ports))
        assert {port.ip for port in seen[-1] if port.port == 8123} == {"127.0.0.1"}
        name = sandbox.get_hostname(8123)
        assert name.startswith(f"8123-{sandbox.id}.")
        assert sandbox.get_url(8123) == f"http://{name}"
        edge = team.variables["SANDPIT_SANDBOX_URL"]
        assert "Directory listing" in httpx.get(edge, headers={"Host": name}, trust_env=False).text


@async_only
async def test_pause_and_resume(flavour: Flavour, team: Team) -> None:
    async with opened(flavour) as sandbox:
        await got(sandbox.filesystem.write("/dev/shm/note", "kept"))
        waiting = await got(sandbox.process.start("sleep 600"))
        assert await got(sandbox.pause())
        assert not await got(sandbox.pause())
        with pytest.raises(SandboxNotFoundException):
            await got(waiting.wait(30))
        assert [one.sandbox_id for one in await got(flavour.Sandbox.list(states=["paused"]))] == [sandbox.id]
        await got(sandbox.resume())
        assert await got(sandbox.filesystem.read("/dev/shm/note")) == "kept"
        assert (await got(sandbox.process.start_and_wait("pgrep -x sleep"))).stdout == str(waiting.pid)
        assert await got(sandbox.pause())
        async with contextlib.AsyncExitStack() as stack:
            again = await got(flavour.Sandbox.reconnect(sandbox.id))
            stack.push_async_callback(_close, again)
            assert await got(again.filesystem.read("/dev/shm/note")) == "kept"


async def _close(sandbox: Any) -> None:
    await got(sandbox.close())


@blocking_only
async def test_forks_and_snapshots(flavour: Flavour, team: Team) -> None:
    async with opened(flavour, env_vars={"FOO": "f"}) as sandbox:
        await got(sandbox.filesystem.write("note", "before"))
        forks = await got(sandbox.fork(2))
        snapshot = await got(sandbox.snapshot("kept-for-later"))
        await got(sandbox.filesystem.write("note", "after"))
        for fork in forks:
            assert await got(fork.filesystem.read("note")) == "before"
            assert (await got(fork.process.start_and_wait("echo $FOO"))).stdout == "f"
            assert await got(fork.kill())
    assert snapshot.snapshot_id in {one.snapshot_id for one in await got(flavour.Sandbox.list_snapshots())}
    async with opened(flavour, snapshot.snapshot_id) as copy:
        assert await got(copy.filesystem.read("note")) == "before"
        assert await got(copy.kill())
    await until(lambda: _deleted(flavour, snapshot.snapshot_id))
    assert not await got(flavour.Sandbox.delete_snapshot(snapshot.snapshot_id))


async def _deleted(flavour: Flavour, snapshot_id: str) -> bool:
    """Deleted, once the sandboxes that needed it are gone."""
    with contextlib.suppress(InvalidArgumentException):
        return bool(await got(flavour.Sandbox.delete_snapshot(snapshot_id)))
    return False


async def test_what_can_go_wrong(flavour: Flavour, team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    create = flavour.Sandbox.create
    with pytest.raises(NotFoundException, match=r"template no-such-one.*\n hint: "):
        await got(create("no-such-one"))
    with pytest.raises(TimeoutException, match=r"within 1e-06 s\n hint: "):
        await got(create(timeout=1e-6))
    with pytest.raises(AuthenticationException, match=r"\n hint: check the API key"):
        await got(create(api_key="e2b_" + 40 * "0"))
    with pytest.raises(InvalidArgumentException, match="denyOut"):
        await got(create(network={"denyOut": ["example.com"]}))
    with pytest.raises(ValueError, match="3600"):
        async with opened(flavour) as sandbox:
            await got(sandbox.keep_alive(4000))
    monkeypatch.setenv("SANDPIT_API_URL", "http://127.0.0.1:9")
    with pytest.raises(ServerUnreachableException, match=r"cannot connect to http://127\.0\.0\.1:9/.*\n hint: "):
        await got(flavour.Sandbox.list())
    with socketserver.TCPServer(("127.0.0.1", 0), _Page) as server:
        threading.Thread(target=server.handle_request).start()
        monkeypatch.setenv("SANDPIT_API_URL", f"http://127.0.0.1:{server.server_address[1]}")
        with pytest.raises(SandboxException, match="no Sandpit server"):
            await got(flavour.Sandbox.list())
    monkeypatch.delenv("SANDPIT_API_KEY")
    monkeypatch.delenv("E2B_API_KEY", raising=False)
    with pytest.raises(AuthenticationException, match="sandpit env"):
        await got(create())


class _Page(http.server.BaseHTTPRequestHandler):
    """Some other server."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<html>")

    def log_message(self, *_arguments: object) -> None: ...
