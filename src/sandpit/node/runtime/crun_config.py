"""The OCI configuration of a crun sandbox: what is mounted, hidden and mapped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sandpit.node.network.slots import Slot
from sandpit.node.runtime import crun_stage, hidden, oci, seccomp
from sandpit.node.runtime.base import Plan

_FIRST_UID = 0x10000000
"""Outer user ids start here, 65536 for each slot: no user of the host, none of another sandbox."""
_UIDS = 65536


def first_uid(slot: Slot) -> int:
    """The outer user id of root in the sandbox of a slot."""
    return _FIRST_UID + slot.number * _UIDS


def configuration(plan: Plan, stage: Path) -> dict[str, Any]:
    """What `crun run` reads from `config.json`; `stage` is where the parts of its root are (`crun_stage`)."""
    base = first_uid(plan.slot)
    mapping = [{"containerID": 0, "hostID": base, "size": _UIDS}]
    return {
        "ociVersion": "1.0.0",
        "hostname": "sandbox",
        "root": {"path": str(stage / crun_stage.ROOT), "readonly": False},
        "process": oci.process(oci.guest_command("agent"), oci.CAPABILITIES, no_new_privileges=False),
        "mounts": _mounts(plan, stage),
        "linux": {
            "namespaces": oci.namespaces(plan, "pid", "ipc", "uts", "mount", "user", "cgroup"),
            "uidMappings": mapping,
            "gidMappings": mapping,
            "maskedPaths": hidden.paths(),
            "readonlyPaths": list(hidden.READ_ONLY),
            "seccomp": seccomp.filter_for(oci.CAPABILITIES),
        },
    }


def _mounts(plan: Plan, stage: Path) -> list[dict[str, Any]]:
    shm = f"size={plan.limits.memory_mb // 2}m"
    return [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
        {
            "destination": "/dev",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "mode=755", "size=64k"],
        },
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        },
        {
            "destination": "/dev/shm",
            "type": "tmpfs",
            "source": "shm",
            "options": ["nosuid", "nodev", "mode=1777", shm],
        },
        {
            "destination": "/sys",
            "type": "bind",
            "source": str(stage / crun_stage.SYS),
            "options": ["bind", "ro", "nosuid", "nodev", "noexec"],
        },
        {
            "destination": "/proc/sys/kernel/random/boot_id",  # else the host's, and the same after a boot
            "type": "bind",
            "source": str(stage / crun_stage.BOOT_ID),
            "options": ["bind", "ro", "nosuid", "nodev", "noexec"],
        },
        {
            "destination": "/.sandpit",
            "type": "bind",
            "source": str(stage / crun_stage.CLOSURE),
            "options": ["bind", "ro", "nosuid", "nodev"],
        },
    ]
