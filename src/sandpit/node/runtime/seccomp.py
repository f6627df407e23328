"""The system calls of crun sandboxes: the distribution's container profile, narrowed.

The profile (package golang-github-containers-common) is written for container engines: rules apply with certain capabilities or on
certain machines. Here it is resolved for our capabilities and this machine, and then loses what a sandbox has no business with: new
namespaces, mounts, keyrings, io_uring and the like, each a way into rarely used kernel code.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from sandpit.node.contract import NodeError

PROFILE = Path("/usr/share/containers/seccomp.json")
_ARCHES = {"x86_64": "amd64", "aarch64": "arm64"}
_ARCHITECTURES = {"x86_64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"], "aarch64": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]}
_ENOSYS = 38
_NEW_NAMESPACES = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET (clone(2))."""

REFUSED = frozenset({
    "add_key", "bpf", "clone", "clone3", "fsconfig", "fsmount", "fsopen", "fspick", "io_uring_enter",
    "io_uring_register", "io_uring_setup", "keyctl", "mount", "mount_setattr", "move_mount", "name_to_handle_at",
    "open_by_handle_at", "open_tree", "perf_event_open", "pivot_root", "request_key", "setns", "umount", "umount2",
    "unshare", "userfaultfd", "vmsplice",
})  # fmt: skip


def filter_for(capabilities: tuple[str, ...]) -> dict[str, Any]:
    """The OCI `linux.seccomp` object. Raises: NodeError when the distribution's profile is not installed."""
    try:
        profile = json.loads(PROFILE.read_text())
    except FileNotFoundError:
        raise NodeError(f"{PROFILE} is missing: install the package golang-github-containers-common") from None
    machine = os.uname().machine
    rules = [
        {key: rule[key] for key in ("names", "action", "args", "errnoRet") if rule.get(key)}
        for rule in profile["syscalls"]
        if _applies(rule, _ARCHES[machine], set(capabilities))
    ]
    for rule in rules:
        if rule["action"] == "SCMP_ACT_ALLOW":
            rule["names"] = [name for name in rule["names"] if name not in REFUSED]
    no_namespaces = {"index": 0, "value": _NEW_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
    rules += [
        {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [no_namespaces]},
        # Its flags are in memory, where a filter cannot look; C libraries fall back to clone.
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS},
    ]
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": _ENOSYS,
        "architectures": _ARCHITECTURES[machine],
        "syscalls": [rule for rule in rules if rule["names"]],
    }


def _applies(rule: dict[str, Any], arch: str, capabilities: set[str]) -> bool:
    includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
    if "arches" in includes and arch not in includes["arches"]:
        return False
    if not set(includes.get("caps", ())) <= capabilities:
        return False
    return not set(excludes.get("caps", ())) & capabilities and arch not in excludes.get("arches", ())
