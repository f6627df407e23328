"""Checks of the server that runs on this machine, if one does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandpit.cli.doctor.checks import Check, Result
from sandpit.cli.errors import CliError
from sandpit.cli.server.local import control, running_state

if TYPE_CHECKING:
    from sandpit.server.settings import Settings


def _deadlines(settings: Settings) -> Result:
    """Whether every sandbox has ended, or been paused, at its time."""
    try:
        running_state(settings)
        overdue = control(settings, "GET", "/status").get("overdue")
    except CliError:
        return Result("ok", "no server is running")
    if not overdue:
        return Result("ok", "no sandbox is past its time")
    shown = ", ".join(f"{item['sandbox_id']} ({item['state']}, {item['seconds']:.0f} s)" for item in overdue[:3])
    return Result(
        "failed",
        f"sandboxes past their time, {len(overdue)} of them or more: {shown}",
        "the server's log says why they could not be ended or paused; it tries again every few seconds",
    )


CHECKS = (Check("deadlines", _deadlines, "see the server's log", required=False, root=True),)
