"""What a node raises. Each message says what happened, why, and what to do."""

from __future__ import annotations

import errno


class NodeError(Exception):
    """A node could not do what it was asked for. The message says what happened, why, and what to do."""


class UnknownTemplateBuild(NodeError):
    """The build is not on this node."""


class UnknownSandbox(NodeError):
    """The sandbox is not on this node."""


class UnknownSnapshot(NodeError):
    """The snapshot is not on this node."""


class SnapshotDamaged(NodeError):
    """The snapshot's files are not what was written: it is refused."""


class DiskFull(NodeError):
    """The node's disk would get fuller than its reserve allows, or is full. Nothing was changed."""


def unwritable(message: str, error: OSError) -> NodeError:
    """What to raise for an error of the file system: a full disk has a class of its own, since it may pass."""
    kind = DiskFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else NodeError
    return kind(f"{message}: {error}")


class AgentUnresponsive(NodeError):
    """The sandbox's agent does not answer, so that nothing can be said about the state a snapshot would have."""


class CapacityExhausted(NodeError):
    """The node's memory, processors or slots are used up, and waiting did not help, or would not."""

    retry_seconds = 5
    """When trying again may help: sandboxes end all the time."""
