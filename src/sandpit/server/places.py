"""Where a server and the CLI of the same machine find each other. Imports nothing heavy: every command needs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from sandpit.server.settings import Settings


def lock_file(settings: Settings) -> Path:
    """What a server holds open and locked for all of its life: one server for each data directory."""
    return settings.data_dir / "server.lock"


def log_file(settings: Settings) -> Path:
    """What a server in the background writes to."""
    return settings.data_dir / "server.log"


def state_file(settings: Settings) -> Path:
    """Where a running server says what it is: pid, addresses, version."""
    return settings.run_dir / "server.json"


def control_socket(settings: Settings) -> Path:
    """Where a running server answers to the CLI."""
    return settings.run_dir / "control.sock"
