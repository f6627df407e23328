"""What clients see of a sandbox that is out of memory, on both runtimes, with the official packages."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

import e2b
import e2b_code_interpreter as ci
import pytest
from tests import leaks
from tests.live import Live
from tests.machines import RUNTIMES, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.official_client, pytest.mark.timeout(180)]

TAKE = "python3 -c \"x = bytearray(3 * 2**30); x[::4096] = b'1' * len(x[::4096])\""
FRAME = "import numpy; frame = numpy.ones((3 * 2**27,)); frame.sum()"
"""3 GiB."""


@pytest.fixture(scope="module", params=RUNTIMES)
def own(request: pytest.FixtureRequest, built_images: None) -> Iterator[Live]:
    """A server that runs everything on one runtime."""
    server = Live({"SANDPIT_RUNTIME": str(request.param), "SANDPIT_POOL__SIZE": "0"})
    leaks.kept.add(server.name)
    server.start()
    before = {name: os.environ.get(name) for name in server.clients}
    os.environ |= server.clients
    yield server
    for name, value in before.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    server.stop()
    server.remove()


def logged(server: Live, sandbox: e2b.Sandbox) -> list[dict[str, Any]]:
    """What the server itself has written into a sandbox's log."""
    answer = server.api.get(f"/v2/sandboxes/{sandbox.sandbox_id}/logs", params={"loggers": "sandbox"})
    lines: list[dict[str, Any]] = answer.raise_for_status().json()["logs"]
    return lines


def test_a_command_dies_and_the_sandbox_stays(own: Live) -> None:
    with e2b.Sandbox.create(timeout=120) as sandbox:
        sandbox.files.write("/home/user/kept", "1")
        other = sandbox.commands.run("sleep 60", background=True)
        with pytest.raises(e2b.CommandExitException) as ended:
            sandbox.commands.run(TAKE, timeout=60)
        assert ended.value.error == "signal: killed"
        assert sandbox.files.read("/home/user/kept") == "1"
        assert other.pid in [process.pid for process in sandbox.commands.list()]
        wait_for(lambda: any("out of memory: killed process" in line["message"] for line in logged(own, sandbox)))


def test_a_cell_says_so_and_its_context_restarts(own: Live) -> None:
    with ci.Sandbox.create(timeout=120) as sandbox:
        other = sandbox.create_code_context()
        sandbox.run_code("kept = 1", context=other)
        error = sandbox.run_code(FRAME, timeout=60).error
        assert error is not None
        assert (error.name, "out of memory" in error.value) == ("OutOfMemory", True)
        assert sandbox.run_code("1 + 1").text == "2"
        assert sandbox.run_code("kept", context=other).text == "1"


def test_after_a_resume_too(own: Live) -> None:
    with e2b.Sandbox.create(timeout=120) as sandbox:
        sandbox.files.write("/home/user/kept", "1")
        sandbox.pause()
        sandbox.connect()
        with pytest.raises(e2b.CommandExitException):
            sandbox.commands.run(TAKE, timeout=60)
        assert sandbox.files.read("/home/user/kept") == "1"


def fill(sandbox: e2b.Sandbox) -> None:
    """Write files in memory; who writes dies first."""
    for number in range(100):
        with contextlib.suppress(e2b.CommandExitException):
            sandbox.commands.run(f"sudo dd if=/dev/zero of=/mnt/{number} bs=1M count=100", timeout=60)


def test_a_sandbox_that_must_end_says_why(own: Live) -> None:
    """Files in memory, which are nobody's."""
    if own.settings["SANDPIT_RUNTIME"] == "crun":
        pytest.skip("crun sandboxes cannot have more files in memory than half of theirs")
    with e2b.Sandbox.create(timeout=120) as sandbox:
        sandbox.commands.run("sudo mount -t tmpfs memory /mnt")
        with pytest.raises(e2b.SandboxException, match=r"out of memory \(limit 512 MiB\)") as ended:
            fill(sandbox)
        assert "timed out" not in str(ended.value)
        with pytest.raises(e2b.SandboxException, match=r"out of memory \(limit 512 MiB\)"):
            sandbox.files.read("/home/user/kept")
        assert not sandbox.is_running()
