"""The system calls of crun sandboxes: the distribution's container profile, narrowed.

The profile (package golang-github-containers-common) is written for container engines: rules apply with certain capabilities or on
certain machines. It is a list of what is allowed; what it does not name, such as calls of newer kernels, is answered with ENOSYS. Here it
is resolved for our capabilities and this machine, and then loses what a sandbox has no business with: new namespaces, mounts, keyrings,
io_uring and the like, each a way into rarely used kernel code. Sockets are those of a list, too: a new protocol family is refused until
somebody adds it.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sandpit.contract.errors import NodeError

PROFILE = Path("/usr/share/containers/seccomp.json")
_ARCHES = {"x86_64": "amd64", "aarch64": "arm64"}
_ARCHITECTURES = {"x86_64": ["SCMP_ARCH_X86_64"], "aarch64": ["SCMP_ARCH_AARCH64"]}
"""The machine's own calls only. Those of 32-bit programs, which gVisor has not either, are a second way into the kernel, and one of them
(socketcall) hides from filters which socket is asked for."""
_ENOSYS = 38
_EPROTONOSUPPORT = 93
_EAFNOSUPPORT = 97
_NUMBERS = 64
"""Protocol families (46 in Linux 6.18), netlink's protocols (23) and the internet's allowed ones are numbers below this."""
_WORD = 0xFFFFFFFF
_NEW_NAMESPACES = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET (clone(2))."""

REFUSED = frozenset({
    # Kernel objects and programs.
    "add_key", "bpf", "io_uring_enter", "io_uring_register", "io_uring_setup", "keyctl", "perf_event_open",
    "request_key", "userfaultfd", "vmsplice",
    # Namespaces and mounts.
    "clone", "clone3", "fsconfig", "fsmount", "fsopen", "fspick", "mount", "mount_setattr", "move_mount",
    "open_tree", "pivot_root", "setns", "umount", "umount2", "unshare",
    # Files by other ways than their names, and marks on all files of a file system.
    "fanotify_init", "fanotify_mark", "name_to_handle_at", "open_by_handle_at",
    # Other processes' descriptors, memory that nobody can look into, segments of 16-bit programs.
    "kcmp", "memfd_secret", "modify_ldt", "pidfd_getfd", "process_madvise", "process_mrelease",
    # The machine itself.
    "acct", "adjtimex", "clock_adjtime", "clock_adjtime64", "clock_settime", "clock_settime64", "delete_module",
    "finit_module", "init_module", "ioperm", "iopl", "kexec_file_load", "kexec_load", "lookup_dcookie", "quotactl",
    "quotactl_fd", "reboot", "settimeofday", "stime", "swapoff", "swapon", "syslog",
    # Memory on certain nodes of the machine.
    "mbind", "migrate_pages", "move_pages", "set_mempolicy", "set_mempolicy_home_node",
    # Obsolete.
    "_sysctl", "nfsservctl", "remap_file_pages", "socketcall", "sysfs", "uselib", "ustat", "vm86", "vm86old",
    # See `_sockets`.
    "socket", "socketpair",
})  # fmt: skip
PROTOCOLS = {
    socket.AF_INET: (0, socket.IPPROTO_TCP, socket.IPPROTO_UDP, socket.IPPROTO_ICMP),
    socket.AF_INET6: (0, socket.IPPROTO_TCP, socket.IPPROTO_UDP, socket.IPPROTO_ICMPV6),
}
"""Of the internet's, what programs use: others (MPTCP, UDP-Lite, SCTP, L2TP, ...) are code of the kernel, often modules, that a socket
loads. Raw sockets take rights over the network namespace, which nobody in a sandbox has."""
NETLINK = (0, 4)
"""NETLINK_ROUTE: addresses and routes, which C libraries ask for. NETLINK_SOCK_DIAG: ss(8). (netlink(7))"""


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
        else:
            rule["names"] = [name for name in rule["names"] if name not in ("socket", "socketpair")]
    rules += [
        _allowed("clone", _equal(0, 0, mask=_NEW_NAMESPACES)),
        # Its flags are in memory, where a filter cannot look; C libraries fall back to clone.
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS},
        *_sockets(),
    ]
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": _ENOSYS,
        "architectures": _ARCHITECTURES[machine],
        "syscalls": [rule for rule in rules if rule["names"]],
    }


def _sockets() -> list[dict[str, Any]]:
    """Sockets that may be made. Others (AF_VSOCK, AF_ALG, AF_PACKET, AF_TIPC, ...) are unknown here, as if the kernel had none.

    Bits above an argument's 32, which the kernel does not look at, pass no rule: whole values are compared.
    """
    netlink = _equal(0, socket.AF_NETLINK)
    return [
        _allowed("socket", _equal(0, socket.AF_UNIX)),
        *(rule for family, protocols in PROTOCOLS.items() for rule in _internet(family, protocols)),
        *(_unknown("socket", condition) for condition in _others(0, (socket.AF_UNIX, *PROTOCOLS, socket.AF_NETLINK))),
        *(_allowed("socket", netlink, _equal(2, protocol)) for protocol in NETLINK),
        *(_unknown("socket", netlink, condition) for condition in _others(2, NETLINK)),
        _allowed("socketpair", _equal(0, socket.AF_UNIX)),
        *(_unknown("socketpair", condition) for condition in _others(0, (socket.AF_UNIX,))),
    ]


def _internet(family: int, protocols: tuple[int, ...]) -> list[dict[str, Any]]:
    of_family = _equal(0, family)
    beyond = {"index": 2, "value": _NUMBERS, "op": "SCMP_CMP_GE"}  # IPPROTO_MPTCP is 262
    return [
        *(_allowed("socket", of_family, _equal(2, protocol)) for protocol in protocols),
        *(
            {**_unknown("socket", of_family, one), "errnoRet": _EPROTONOSUPPORT}
            for one in (beyond, *_others(2, protocols))
        ),
    ]


def _others(index: int, values: Iterable[int]) -> list[dict[str, Any]]:
    """Conditions for the other values that there may be one day: a filter's default has one error, programs expect another one here.

    Blocks, not values: every rule is paid for by each start of a sandbox.
    """
    blocks = _blocks(0, _NUMBERS, {int(value) for value in values})
    return [_equal(index, first, mask=_WORD & -size) for first, size in blocks]


def _blocks(first: int, size: int, taken: set[int]) -> Iterator[tuple[int, int]]:
    """(first, size) of the fewest blocks without a number of `taken`; sizes are powers of two, which a mask can tell."""
    if taken.isdisjoint(range(first, first + size)):
        yield first, size
    elif size > 1:
        yield from _blocks(first, size // 2, taken)
        yield from _blocks(first + size // 2, size // 2, taken)


def _allowed(name: str, *arguments: dict[str, Any]) -> dict[str, Any]:
    return {"names": [name], "action": "SCMP_ACT_ALLOW", "args": list(arguments)}


def _unknown(name: str, *arguments: dict[str, Any]) -> dict[str, Any]:
    return {"names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": _EAFNOSUPPORT, "args": list(arguments)}


def _equal(index: int, value: int, *, mask: int | None = None) -> dict[str, Any]:
    """A condition on an argument, or on some bits of it (seccomp_rule_add(3))."""
    if mask is None:
        return {"index": index, "value": int(value), "op": "SCMP_CMP_EQ"}
    return {"index": index, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}


def _applies(rule: dict[str, Any], arch: str, capabilities: set[str]) -> bool:
    includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
    if "arches" in includes and arch not in includes["arches"]:
        return False
    if not set(includes.get("caps", ())) <= capabilities:
        return False
    return not set(excludes.get("caps", ())) & capabilities and arch not in excludes.get("arches", ())
