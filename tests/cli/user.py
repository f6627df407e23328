"""The commands of a user against a real server."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.cli import inprocess

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from tests.live import Live

SECONDS = 55
PATIENCE = 40.0


@dataclass
class User:
    """Somebody whose environment says which server he uses, and who has a home of his own."""

    live: Live
    environment: dict[str, str]

    @property
    def program(self) -> list[str]:
        return [sys.executable, "-P", "-m", "sandpit.cli"]

    def run(self, *arguments: str, stdin: bytes | None = None, **more: str) -> subprocess.CompletedProcess[bytes]:
        """Run a command to its end; without `stdin` its standard input is /dev/null."""
        return inprocess.run(arguments, self.environment | more, stdin)

    def __call__(self, *arguments: str, **more: str) -> str:
        """The standard output of a command that must succeed."""
        done = self.run(*arguments, stdin=None, **more)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.decode()

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json"))

    def refused(self, *arguments: str, **more: str) -> tuple[int, str]:
        """Exit status and message of a command that must fail, without a traceback."""
        done = self.run(*arguments, stdin=None, **more)
        assert done.returncode != 0, done.stdout
        text = done.stderr.decode()
        assert "Traceback" not in text
        return done.returncode, text

    def api(self, method: str, path: str, **more: Any) -> Any:
        """A call to the API for the same team."""
        answer = self.live.api.request(method, path, headers={"X-API-KEY": self.environment["E2B_API_KEY"]}, **more)
        return answer.json() if answer.content else None

    def create(self, template: str = "base", **body: Any) -> str:
        """A new sandbox's id; by the API, which is faster."""
        return str(self.api("POST", "/v2/sandboxes", json={"templateID": template, **body})["sandboxID"])

    def kill(self, sandbox: str) -> None:
        self.api("DELETE", f"/sandboxes/{sandbox}")

    def state(self, sandbox: str) -> str:
        """running, paused, or gone."""
        return str(self.api("GET", f"/sandboxes/{sandbox}").get("state", "gone"))


def until(question: Callable[[], Any]) -> Any:
    """Ask again until the answer is true, and fail when it never is."""
    deadline = time.monotonic() + PATIENCE
    while not (answer := question()):
        assert time.monotonic() < deadline, "never came true"
        time.sleep(0.1)
    return answer
