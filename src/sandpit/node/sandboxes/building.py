"""The seam to template builds: a node gives its parts, and is given what builds templates with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from sandpit.contract.builder import BuildFiles, BuildReport, BuildSpec
from sandpit.node.config import NodeConfig
from sandpit.node.network.firewall import Firewall
from sandpit.node.network.slots import Slots
from sandpit.node.pool.admission import Admission
from sandpit.node.sandboxes.launcher import Launcher
from sandpit.node.snapshots.images import Image
from sandpit.node.snapshots.templates import Templates


@dataclass(frozen=True, slots=True)
class Parts:
    """What a node runs sandboxes with."""

    config: NodeConfig
    launcher: Launcher
    templates: Templates
    admission: Admission
    slots: Slots
    firewall: Firewall


class TemplateBuilder(Protocol):
    """Builds templates on one node."""

    def prepare(self) -> None:
        """Remove what an earlier process was building. Raises: OSError."""

    async def build(self, spec: BuildSpec, files: BuildFiles, report: BuildReport) -> Image:
        """See Node.build."""

    def remove(self, build_id: str) -> None:
        """Forget a build; its layers go when nothing else needs them."""

    def used(self, owner: str) -> int:
        """Bytes that a team's builds take up. Blocking. Raises: OSError, NodeError."""

    def collect(self) -> None:
        """Throw away layers that nothing needs. Raises: OSError, ValueError."""


MakeBuilder = Callable[[Parts], TemplateBuilder]
