"""The `sandpit` command with a fault in it: this process kills itself at a moment that a file names.

usage: python -P tests/abuse/faulty_server.py FILE ARGUMENT...

FILE holds `before FUNCTION` or `after FUNCTION`, FUNCTION one of `STEPS`. It is read whenever one of them runs.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

STEPS = (
    "sandpit.control.lifecycle.records:pause_sandbox",
    "sandpit.control.lifecycle.records:resume_sandbox",
    "sandpit.control.lifecycle.pausing:Pausing._set_state",
    "sandpit.control.lifecycle.pausing:Pausing.record",
    "sandpit.control.lifecycle.snapshots:SnapshotService._hold_and_save",
    "sandpit.control.templates.snapshotrecords:new_snapshot",
    "sandpit.node.guests.agent:Agent.claim",
    "sandpit.node.guests.agent:Agent.save_disk",
    "sandpit.node.sandboxes.launcher:Launcher.end",
    "sandpit.node.sandboxes.launcher:Launcher.launch",
    "sandpit.node.sandboxes.local:LocalNode.remove_snapshot",
    "sandpit.node.runtime.crun:Crun.freeze",
    "sandpit.node.runtime.disk_image:copy",
    "sandpit.node.runtime.gvisor:Gvisor.checkpoint",
    "sandpit.node.runtime.gvisor:Gvisor.freeze",
    "sandpit.node.runtime.gvisor:Gvisor.restore",
    "sandpit.node.snapshots.store:SnapshotStore.commit",
    "sandpit.node.snapshots.store:SnapshotStore.hide",
)


def main() -> None:
    fault = Path(sys.argv.pop(1))
    for step in STEPS:
        module, _, name = step.partition(":")
        owner: Any = importlib.import_module(module)
        *parents, name = name.split(".")
        for parent in parents:
            owner = getattr(owner, parent)
        setattr(owner, name, deadly(getattr(owner, name), step.rpartition(":")[2], fault))
    from sandpit.cli.main import main as sandpit

    sandpit()


def deadly(function: Callable[..., Any], name: str, fault: Path) -> Callable[..., Any]:
    """The same function, in which the process may die."""

    def die(moment: str) -> None:
        if fault.exists() and fault.read_text() == f"{moment} {name}":
            os.kill(os.getpid(), signal.SIGKILL)

    @functools.wraps(function)
    def blocking(*arguments: Any, **options: Any) -> Any:
        die("before")
        result = function(*arguments, **options)
        die("after")
        return result

    @functools.wraps(function)
    async def asynchronous(*arguments: Any, **options: Any) -> Any:
        die("before")
        result = await function(*arguments, **options)
        die("after")
        return result

    return asynchronous if inspect.iscoroutinefunction(function) else blocking


if __name__ == "__main__":
    main()
