"""What an earlier process of this node left behind: sandboxes that go on, and remains."""

from __future__ import annotations

import logging
from pathlib import Path

from sandpit.node import images
from sandpit.node.agent import Agent
from sandpit.node.config import NodeConfig
from sandpit.node.contract import NodeError
from sandpit.node.control_secret import ControlSecret
from sandpit.node.launcher import Launcher, Sandbox
from sandpit.node.records import Record, read_all
from sandpit.node.slots import Slots

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


def adopted(config: NodeConfig, launcher: Launcher, slots: Slots, directory: Path, record: Record) -> Sandbox:
    """A sandbox that goes on, from its record as `survey` found it."""
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
    )
