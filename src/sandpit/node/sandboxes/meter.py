"""Measuring sandboxes from outside, through their control groups and disks."""

from __future__ import annotations

from pathlib import Path

from sandpit.contract.node import SandboxMetric
from sandpit.node.sandboxes.launcher import Sandbox

_SLACK_BYTES = 8 << 20
"""For what describes a snapshot's memory and files."""


def measure(sandbox: Sandbox, now: float) -> SandboxMetric:
    """One sample at `now` (unix seconds); the CPU share is since the last one. Raises: OSError when the sandbox is gone."""
    usage = sandbox.cgroup.usage()
    then, used = sandbox.measured or (now, usage.cpu_seconds)
    sandbox.measured = now, usage.cpu_seconds
    percent = 100 * (usage.cpu_seconds - used) / (now - then) if now > then else 0.0
    image = sandbox.image
    return SandboxMetric(
        timestamp=now,
        cpu_count=image.cpu_count,
        cpu_used_pct=round(max(0.0, min(percent, 100.0 * image.cpu_count)), 2),
        mem_used=max(0, usage.memory - usage.cache),
        mem_total=image.memory_mb << 20,
        mem_cache=usage.cache,
        disk_used=disk_used(sandbox.directory / "bundle"),
        disk_total=image.disk_mb << 20,
    )


def snapshot_bytes(sandbox: Sandbox, *, memory: bool) -> int:
    """How large a snapshot of it may get now, at most: its memory, if that is part of it, and what it has written. Blocking."""
    written = disk_used(sandbox.directory / "bundle")
    if not memory:
        return written + written // 8 + _SLACK_BYTES
    try:
        usage = sandbox.cgroup.usage()
    except OSError:  # it is dying
        return written + (sandbox.image.memory_mb << 20)
    return written + max(0, usage.memory - usage.cache) + _SLACK_BYTES


def disk_used(bundle: Path) -> int:
    """Bytes allocated for what the sandbox wrote: gVisor's file store, or crun's disk image."""
    files = [bundle / "disk.img", *(bundle / "disk").glob(".gvisor.filestore.*")]
    return sum(path.stat().st_blocks * 512 for path in files if path.exists())
