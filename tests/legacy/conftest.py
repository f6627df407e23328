"""The clients of 2024, unmodified, in environments of their own; they find the server by what `sandpit env --legacy` prints."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.live import Live

HERE = Path(__file__).parent
FOLDER = "SANDPIT_TEST_LEGACY"
"""Names the folder with the two environments; set by `./test`."""
SECONDS = 420


def settings_of(server: Live) -> dict[str, str]:
    """The variables that a user of these clients sets."""
    done = server.cli("env", "--legacy", "--json")
    assert done.returncode == 0, done.stderr
    return {str(name): str(value) for name, value in json.loads(done.stdout).items()}


class Programs:
    """Programs with the clients of 2024, against one server."""

    def __init__(self, settings: Mapping[str, str], folder: Path) -> None:
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
        self._environment = {
            **kept,
            **settings,
            "SANDPIT_TEST_SERVER": str(HERE / "websocket_server.py"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self._clients = Path(os.environ[FOLDER])
        self._folder = folder
        for file in (*(HERE / "node").glob("*.mjs"), *(HERE / "python").glob("*.py")):
            shutil.copy(file, folder)
        (folder / "node_modules").symlink_to(self._clients / "node/node_modules")

    def _start(self, name: str, output: IO[str]) -> subprocess.Popen[str]:
        """`NAME_checks.py` or `NAME.test.mjs`, in its language's own test runner."""
        if name.endswith(".mjs"):
            # Forced, because the clients leave timers of 60 s behind.
            command = ["node", "--test-reporter=spec", "--test-force-exit", name]
        else:
            command = [str(self._clients / "python/bin/python"), "-W", "ignore", "-m", "unittest", "-v", name]
        return subprocess.Popen(
            command, cwd=self._folder, env=self._environment, stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def run(self, *names: str) -> None:
        """Run programs side by side; all must end well."""
        deadline = time.monotonic() + SECONDS
        outputs = [self._folder / f"{name}.log" for name in names]
        with ExitStack() as files:
            processes = [
                self._start(name, files.enter_context(path.open("w")))
                for name, path in zip(names, outputs, strict=True)
            ]
            try:
                for process in processes:
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(max(0.1, deadline - time.monotonic()))
            finally:
                for process in processes:
                    process.kill()
                    process.wait()
        for process, path in zip(processes, outputs, strict=True):
            output = path.read_text()
            ran = "\nOK" in output or "\N{INFORMATION SOURCE} fail 0\n" in output
            if process.returncode or not ran:
                pytest.fail(f"{path.name}: status {process.returncode}\n{output}", pytrace=False)


def needed() -> None:
    """Skip where these clients cannot run."""
    if not os.environ.get(FOLDER) or not shutil.which("node"):
        pytest.skip(f"{FOLDER} is not set, or there is no node: run ./test")
    try:
        socket.getaddrinfo("api.e2b.localhost", 443)
    except OSError:
        pytest.skip("names below localhost do not resolve here: see `sandpit doctor`")


@pytest.fixture(scope="session")
def programs(live: Live, tmp_path_factory: pytest.TempPathFactory) -> Programs:
    """Programs against the shared server."""
    needed()
    return Programs(settings_of(live), tmp_path_factory.mktemp("legacy"))
