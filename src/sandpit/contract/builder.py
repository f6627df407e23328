"""What a template build is asked for with, and what it says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Protocol

from sandpit.contract.errors import NodeError


@dataclass(frozen=True, slots=True)
class BuildStep:
    """One step of a template build (current-protocol 10.2): COPY, ADD, RUN, ENV, WORKDIR or USER."""

    kind: str
    args: tuple[str, ...]
    force: bool = False
    """Run it and all that follow, whatever is in the cache."""
    files_hash: str | None = None
    """Of COPY and ADD: the archive, as the team's uploads know it."""


@dataclass(frozen=True, slots=True)
class Registry:
    """How to log in to an image's registry. Lives as long as its build, and is written down nowhere."""

    username: str = ""
    password: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class BuildSpec:
    """What a template build is to be. Ids match `^[a-z0-9-]+$`."""

    template_id: str
    build_id: str
    tenant: str
    """The team: layers that its steps make are for its own builds only."""
    name: str
    base_build_id: str | None = None
    """Start from this build..."""
    image: str | None = None
    """...or from this image of a registry."""
    registry: Registry = Registry()
    steps: tuple[BuildStep, ...] = ()
    start_cmd: str | None = None
    ready_cmd: str | None = None
    cpu_count: int = 0
    """0 takes the node's default, as does `memory_mb`."""
    memory_mb: int = 0
    force: bool = False


class BuildFailed(NodeError):
    """A template could not be built. `step` is `base`, a step's number from 1 on, or `finalize` (current-protocol 10.1)."""

    def __init__(self, message: str, step: str) -> None:
        """The message goes to the template's author."""
        super().__init__(message)
        self.message = message
        self.step = step


class BuildReport(Protocol):
    """Where a build says what it does."""

    def __call__(self, message: str, level: str = "info", step: str | None = None) -> None:
        """Take one line. `level` is debug, info, warn or error."""


BuildFiles = Callable[[str], AsyncIterator[bytes]]
"""Opens an archive of the team's uploads by its hash. Raises: KeyError when it was not uploaded."""
