"""Running the command line as users do: in a process of its own, with settings of its own."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.cli.user import User

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.live import Live

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@dataclass
class Cli:
    """`sandpit` with settings that no other server on this machine has."""

    environment: dict[str, str]

    @property
    def data_dir(self) -> Path:
        return Path(self.environment["SANDPIT_DATA_DIR"])

    @property
    def run_dir(self) -> Path:
        return Path(self.environment["SANDPIT_RUN_DIR"])

    def __call__(self, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-P", "-m", "sandpit.cli", *arguments],
            env=self.environment | extra,
            capture_output=True,
            text=True,
            check=False,
            timeout=55,
        )


@pytest.fixture(scope="session")
def closures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory whose closure and downloads all servers of these tests share: making one takes seconds."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture
def cli(tmp_path: Path, closures: Path) -> Cli:
    data_dir, run_dir = tmp_path / "data", tmp_path / "run"
    data_dir.mkdir()
    for name in ("closure", "cache"):
        (closures / name).mkdir(exist_ok=True)
        (data_dir / name).symlink_to(closures / name)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SANDPIT_", "E2B_", "SUDO_"))}
    number = secrets.randbelow(40) + 210
    return Cli(
        kept
        | {
            "PYTHONPATH": str(ROOT / "src"),
            "SANDPIT_DATA_DIR": str(data_dir),
            "SANDPIT_RUN_DIR": str(run_dir),
            "SANDPIT_NODE_NAME": f"t{secrets.token_hex(3)}",
            "SANDPIT_SANDBOX_NETWORK": f"10.{number}.0.0/16",
            "SANDPIT_API_PORT": str(free_port()),
            "SANDPIT_EDGE_PORT": str(free_port()),
            "SANDPIT_TLS_PORT": str(free_port()),
        }
    )


@pytest.fixture(scope="session")
def team_key(live: Live) -> str:
    """The key of a team whose lists hold nothing of other tests."""
    return live.another_team()


@pytest.fixture
def user(live: Live, team_key: str, tmp_path: Path) -> Iterator[User]:
    """Somebody with the three variables set; sandboxes that a test leaves are killed."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
    environment = {
        **kept, **live.clients, "E2B_API_KEY": team_key, "HOME": str(tmp_path), "TERM": "xterm-256color",
        "PYTHONPATH": str(ROOT / "src"), "PYTHONDONTWRITEBYTECODE": "1",
        "SANDPIT_DATA_DIR": str(tmp_path / "none"), "SANDPIT_RUN_DIR": str(tmp_path / "none"),
    }  # fmt: skip
    somebody = User(live, environment)
    yield somebody
    somebody.environment["E2B_API_KEY"] = team_key
    for sandbox in somebody.api("GET", "/v2/sandboxes"):
        somebody.kill(sandbox["sandboxID"])


@pytest.fixture
def sandbox(user: User) -> str:
    return user.create()
