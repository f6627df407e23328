"""What all runtimes' OCI configurations have in common (OCI runtime specification 1.0)."""

from __future__ import annotations

import resource
from typing import Any

from sandpit.node.runtime.base import Limits, Plan

CLOSURE = "/.sandpit"
GUEST_PYTHON = (f"{CLOSURE}/lib/ld.so", "--library-path", f"{CLOSURE}/lib", f"{CLOSURE}/bin/python3", "-I", "-S")
"""The guest closure's Python inside a sandbox."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

OPEN_FILES = 65536

CAPABILITIES = (
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
)
"""What root in a container usually has."""


def guest_command(*parts: str) -> list[str]:
    """The command line of a program of the guest closure."""
    return [*GUEST_PYTHON, f"{CLOSURE}/run.py", *parts]


def process(arguments: list[str], capabilities: tuple[str, ...], *, no_new_privileges: bool) -> dict[str, Any]:
    """The `process` object: root, with these capabilities."""
    return {
        "user": {"uid": 0, "gid": 0},
        "args": arguments,
        "cwd": "/",
        "env": [f"PATH={PATH}"],
        "capabilities": {kind: list(capabilities) for kind in ("bounding", "effective", "permitted")},
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": _open_files(), "hard": _open_files()}],
        "noNewPrivileges": no_new_privileges,
    }


def _open_files() -> int:
    """Descriptors for a process: as many as usual, or as this node itself may have; raising that takes CAP_SYS_RESOURCE."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)


def resources(limits: Limits, *, extra_memory_mb: int, extra_pids: int) -> dict[str, Any]:
    """The `linux.resources` object; the extras pay for the runtime's own processes."""
    memory = (limits.memory_mb + extra_memory_mb) << 20
    return {
        "memory": {"limit": memory},
        "cpu": {"shares": 1024, "quota": round(limits.cpus * 100_000), "period": 100_000},
        "pids": {"limit": limits.pids + extra_pids},
    }


def namespaces(plan: Plan, *kinds: str) -> list[dict[str, str]]:
    """New namespaces of these kinds, and the slot's network namespace."""
    return [*({"type": kind} for kind in kinds), {"type": "network", "path": plan.slot.namespace_path}]
