"""What is kept on disk about each sandbox, beside its bundle: enough to find it again after the server died."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sandpit.contract.node import NetworkPolicy
from sandpit.lib.private import write_private
from sandpit.node.host.processes import ProcessId

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Record:
    """One container. `sandbox_id` is None while it waits in the pool, or was never finished."""

    container_id: str
    build_id: str
    runtime: str
    slot: int
    pid: int | None = None
    start_ticks: int | None = None
    sandbox_id: str | None = None
    network: dict[str, list[str] | None] = field(default_factory=dict)
    closure: str = ""
    """Name of the guest closure that it runs from."""
    secrets: list[str] = field(default_factory=list, repr=False)
    """What its agent knows the node by, the likeliest first (`ControlSecret.record`)."""
    release: str = ""
    """The runtime's release that it was started with (`Runtime.release`); empty in records from before it was kept."""

    def policy(self) -> NetworkPolicy:
        """The egress rules in force."""
        dns_servers = self.network.get("dns_servers")
        return NetworkPolicy(
            tuple(self.network.get("allow_out") or ()),
            tuple(self.network.get("deny_out") or ()),
            tuple(dns_servers) if dns_servers is not None else None,
        )

    def process(self) -> ProcessId | None:
        """The container's first host process; None when its start was not finished."""
        return ProcessId(self.pid, self.start_ticks) if self.pid and self.start_ticks else None

    def write(self, directory: Path) -> None:
        """Store atomically: a crash leaves the old record or the new one. Nobody else may read it."""
        write_private(directory / "record.new", json.dumps(asdict(self)))
        (directory / "record.new").rename(directory / "record.json")


def read_all(sandboxes_dir: Path) -> Iterator[tuple[Path, Record | None]]:
    """Every sandbox directory with its record; None where a crash came before the first one was written."""
    for directory in sorted(sandboxes_dir.iterdir() if sandboxes_dir.exists() else ()):
        try:
            yield directory, Record(**json.loads((directory / "record.json").read_text()))
        except (FileNotFoundError, ValueError, TypeError) as error:
            log.warning("%s has no usable record: %s", directory, error)
            yield directory, None
