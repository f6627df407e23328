"""A real server in a process of its own, with the built templates, for tests that come in through the front door."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
from tests import leaks
from tests.machines import REPOSITORY, ROOT, new_directories, new_name, new_network, own_layers, snapshots_dir

from sandpit.provision.builtin import builtin_images

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

START_SECONDS = 120.0


@dataclass
class Live:
    """`sandpit server` on free ports. Snapshots of the templates are shared by all: taking them takes seconds."""

    settings: Mapping[str, str] = field(default_factory=dict)
    """More `SANDPIT_*` variables."""
    program: Sequence[str] = ("-m", "sandpit.cli")
    """What Python runs as the `sandpit` command of the server."""

    def __post_init__(self) -> None:
        self.name = new_name()
        self.data_dir, self.run_dir = new_directories(self.name)
        own_layers(self.data_dir)
        (self.data_dir / "snapshots").symlink_to(snapshots_dir())
        for image in builtin_images():
            image.write(self.data_dir / "images")
        self.log = ROOT / self.name / "log"

    @property
    def environment(self) -> dict[str, str]:
        """For `sandpit` commands that mean this server."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SANDPIT_", "E2B_", "SUDO_"))}
        return {
            **kept,
            "PYTHONPATH": str(REPOSITORY / "src"),
            "SANDPIT_DATA_DIR": str(self.data_dir),
            "SANDPIT_RUN_DIR": str(self.run_dir),
            "SANDPIT_NODE_NAME": self.name,
            "SANDPIT_SANDBOX_NETWORK": str(self._network),
            "SANDPIT_API_PORT": "0",
            "SANDPIT_EDGE_PORT": "0",
            "SANDPIT_TLS_PORT": "0",
            "SANDPIT_POOL__MAX_SIZE": "3",  # a test that creates many at once should not leave as many waiting
            **self.settings,
        }

    _network: Any = field(default_factory=new_network)

    def start(self) -> None:
        """Start the server, and return when it is ready."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", *self.program, "server", "--log-level", "debug"],
                env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        leaks.kept_processes.add(self.process.pid)
        state = self.run_dir / "server.json"
        deadline = time.monotonic() + START_SECONDS
        while True:
            assert self.process.poll() is None, self.words()
            assert time.monotonic() < deadline, self.words()
            try:
                found = json.loads(state.read_text())
            except (OSError, ValueError):
                found = {}
            if found.get("pid") == self.process.pid:
                break
            time.sleep(0.02)
        self.api_url, self.edge_url = found["addresses"]["api"], found["addresses"]["edge"]
        self.tls_url = found["addresses"].get("tls")
        self.key = (self.data_dir / "api-key").read_text().strip()
        self.api = httpx.Client(
            base_url=self.api_url, headers={"X-API-KEY": self.key}, trust_env=False, timeout=60,
            limits=httpx.Limits(max_keepalive_connections=0),
        )  # fmt: skip

    def words(self) -> str:
        """The end of the server's log."""
        return self.log.read_text(errors="replace")[-5000:]

    def kill(self) -> None:
        """SIGKILL: sandboxes go on without it."""
        self.process.send_signal(signal.SIGKILL)
        self.ended()

    def stop(self) -> None:
        """End the server and all its sandboxes; its directories stay."""
        if self.process.poll() is None:
            control = httpx.HTTPTransport(uds=str(self.run_dir / "control.sock"))
            with httpx.Client(transport=control, base_url="http://sandpit") as client:
                client.post("/stop", params={"sandboxes": "true"}).raise_for_status()
        self.ended()

    def ended(self) -> None:
        """Wait for its end."""
        self.process.wait(60)
        leaks.kept_processes.discard(self.process.pid)
        self.api.close()

    def remove(self) -> None:
        """Remove its directories."""
        shutil.rmtree(ROOT / self.name)

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a `sandpit` command."""
        command = [sys.executable, "-P", "-m", "sandpit.cli", *arguments]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False, timeout=120)

    @property
    def clients(self) -> dict[str, str]:
        """What official clients of this server have in their environment."""
        return {"E2B_API_KEY": self.key, "E2B_API_URL": self.api_url, "E2B_SANDBOX_URL": self.edge_url}

    def another_team(self) -> str:
        """The API key of a new team."""
        done = self.cli("teams", "create", f"team {secrets.token_hex(4)}")
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()
