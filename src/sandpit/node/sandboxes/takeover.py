"""What an earlier process of this node left behind: sandboxes that go on, and remains."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from sandpit.contract.errors import NodeError
from sandpit.node.config import NodeConfig
from sandpit.node.guests.agent import Agent
from sandpit.node.guests.control_secret import ControlSecret
from sandpit.node.network.slots import Slots
from sandpit.node.sandboxes.launcher import Launcher, Sandbox
from sandpit.node.sandboxes.records import Record, read_all
from sandpit.node.snapshots import images

log = logging.getLogger(__name__)


def survey(config: NodeConfig) -> tuple[list[tuple[Path, Record]], list[tuple[Path, Record | None]]]:
    """Sort the directories of sandboxes, with their records, into those that go on and remains."""
    alive: list[tuple[Path, Record]] = []
    dead: list[tuple[Path, Record | None]] = []
    for directory, record in read_all(config.sandboxes_dir):
        process = record.process() if record else None
        going_on = record is not None and process is not None and process.alive() and record.sandbox_id is not None
        if record is not None and going_on and _known(config, record.build_id):
            alive.append((directory, record))
        else:
            dead.append((directory, record))
    return alive, dead


def _known(config: NodeConfig, build_id: str) -> bool:
    try:
        images.load(config, build_id)
    except NodeError as error:
        log.error("a sandbox of an earlier process cannot go on: %s", error)
        return False
    return True


def keep_releases(launcher: Launcher, alive: Sequence[Record]) -> list[str]:
    """Keep today's runtimes and those of living sandboxes, whatever is installed later; returns the latter. Blocking. Raises: OSError."""
    for runtime in launcher.runtimes():
        runtime.keep_release()
    return [_release_of(launcher, record) for record in alive]


def _release_of(launcher: Launcher, record: Record) -> str:
    """The release that a sandbox was started with, its binary kept. Without that it goes on, and cannot be paused."""
    process = record.process()
    assert process is not None  # sorted by survey
    try:
        return launcher.runtime_named(record.runtime).keep_release_of(process, record.release)
    except (OSError, NodeError) as error:
        log.error("the runtime of sandbox %s is gone, it cannot be paused: %s", record.sandbox_id, error)
        return record.release


def adopted(
    config: NodeConfig, launcher: Launcher, slots: Slots, directory: Path, record: Record, release: str
) -> Sandbox:
    """A sandbox that goes on, from its record as `survey` found it, and its release (`keep_releases`)."""
    slot = slots.get(record.slot)
    process = record.process()
    assert process is not None and record.sandbox_id is not None  # noqa: PT018 (sorted by survey)
    return Sandbox(
        record.container_id,
        images.load(config, record.build_id),
        record.runtime,
        directory,
        slot,
        launcher.cgroup(record.container_id),
        process,
        Agent(str(slot.outer), ControlSecret.recorded(record.secrets)),
        record.sandbox_id,
        record.policy(),
        record.closure,
        release,
    )
