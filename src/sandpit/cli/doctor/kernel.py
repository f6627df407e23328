"""Checks of the kernel: each tries the real thing, in namespaces of its own or on a scratch directory."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sandpit.cli.doctor.checks import Check, Result, existing, output

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandpit.server.settings import Settings

_NEW_KERNEL = "use Linux 5.16 or newer (Debian 12 has 6.1)"
_OVERLAY = (
    'cd "$1" && mkdir lower upper work merged && '
    "mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work overlay merged && touch merged/file"
)
_LINK = "ip link add check0 type veth peer name check1"
_NETDEV = f"""{_LINK} && nft -f - <<'RULES'
table netdev check {{
  chain in0 {{ type filter hook ingress device "check0" priority -300; ip saddr 10.0.0.1 ip saddr set 10.0.0.2; }}
  chain out0 {{ type filter hook egress device "check0" priority -300; ip daddr 10.0.0.2 ip daddr set 10.0.0.1; }}
}}
RULES"""
_MASQUERADE = """nft -f - <<'RULES'
table ip check {
  chain out { type nat hook postrouting priority 100; ip saddr 10.0.0.0/8 masquerade; }
  chain forward { type filter hook forward priority -10; ct state established,related accept; fib daddr type local drop; }
}
RULES"""
_CONTROLLERS = ("memory", "cpu", "pids")
_CGROUPS = Path("/sys/fs/cgroup")
_TABLE = Path("/proc/sys/net/netfilter/nf_conntrack_max")


def _release(_: Settings) -> Result:
    release = os.uname().release
    numbers = tuple(int(part) for part in release.split("-")[0].split(".")[:2])
    if numbers < (5, 16):
        return Result("failed", f"Linux {release}", _NEW_KERNEL)
    return Result("ok", f"Linux {release} on {os.uname().machine}")


def _user_namespaces(_: Settings) -> Result:
    output("unshare", "--user", "--map-root-user", "true")
    return Result("ok", "they can be made")


@contextmanager
def _scratch(settings: Settings) -> Iterator[Path]:
    """A directory on the data directory's file system: what counts is what that one can do."""
    with tempfile.TemporaryDirectory(prefix=".sandpit-doctor.", dir=existing(settings.data_dir)) as folder:
        yield Path(folder)


def _overlay(settings: Settings) -> Result:
    with _scratch(settings) as folder:
        output("unshare", "--mount", "sh", "-c", _OVERLAY, "sh", str(folder))
    return Result("ok", f"works on the file system of {settings.data_dir}")


def _idmapped(settings: Settings) -> Result:
    from sandpit.lib import mounts

    with _scratch(settings) as folder:
        for name in ("source", "target"):
            (folder / name).mkdir()
        try:
            mounts.bind_idmapped(folder / "source", folder / "target", 0x10000000)
            owner = (folder / "target").stat().st_uid
        finally:
            mounts.unmount(folder / "target")
    if owner != 0x10000000:
        return Result("failed", "owners are not translated", _NEW_KERNEL)
    return Result("ok", f"work on the file system of {settings.data_dir}")


def _links(_: Settings) -> Result:
    output("unshare", "--net", "sh", "-c", _LINK)
    return Result("ok", "namespaces and veth links can be made")


def _hooks(_: Settings) -> Result:
    output("unshare", "--net", "sh", "-c", _NETDEV)
    return Result("ok", "ingress and egress hooks translate addresses")


def _translation(_: Settings) -> Result:
    output("unshare", "--net", "sh", "-c", _MASQUERADE)
    return Result("ok", "masquerading and connection tracking are there")


def _flows(settings: Settings) -> Result:
    from sandpit.node.network.flows import TABLE_SIZE, example

    rules = example()
    output("unshare", "--net", "sh", "-c", f"nft -f - <<'RULES'\n{rules}RULES")
    size = max(int(_TABLE.read_text()) if _TABLE.exists() else 0, TABLE_SIZE)
    each = settings.sandbox_flows
    return Result("ok", f"{each} for each sandbox, {size} for this host: {size // each} sandboxes at their limit")


def _seccomp(_: Settings) -> Result:
    actions = Path("/proc/sys/kernel/seccomp/actions_avail").read_text().split()
    return Result("ok", f"{len(actions)} actions")


def _control_groups(_: Settings) -> Result:
    if (_CGROUPS / "cgroup.controllers").exists():
        layout, found = "v2", (_CGROUPS / "cgroup.controllers").read_text().split()
    else:
        layout = "v1, hybrid" if (_CGROUPS / "unified").is_dir() else "v1"
        found = [name for name in _CONTROLLERS if (_CGROUPS / name / "cgroup.procs").exists()]
    missing = [name for name in _CONTROLLERS if name not in found]
    if missing:
        fix = "boot with systemd.unified_cgroup_hierarchy=1, and without cgroup_disable"
        return Result("failed", f"{layout}, without {', '.join(missing)}", fix)
    if not os.access(_CGROUPS, os.W_OK) and os.geteuid() == 0:
        return Result("failed", f"{layout}, but read-only", "give this container a writable /sys/fs/cgroup")
    return Result("ok", f"{layout}: {', '.join(_CONTROLLERS)}")


CHECKS = (
    Check("kernel", _release, _NEW_KERNEL),
    Check("user namespaces", _user_namespaces, "sysctl -w user.max_user_namespaces=100000", root=True),
    Check("overlayfs", _overlay, "modprobe overlay, or set SANDPIT_DATA_DIR to a directory on ext4 or xfs", root=True),
    Check("idmapped mounts", _idmapped, f"only crun sandboxes need them: {_NEW_KERNEL}", required=False, root=True),
    Check("network namespaces", _links, "modprobe veth, and install iproute2", root=True),
    Check("nftables netdev hooks", _hooks, f"modprobe nf_tables; {_NEW_KERNEL}", root=True),
    Check("address translation", _translation, "modprobe nf_nat nft_masq nft_ct nft_fib_ipv4", root=True),
    Check(
        "connection limits", _flows, "modprobe nft_connlimit nft_ct nft_limit nf_conntrack", required=False, root=True
    ),
    Check("seccomp", _seccomp, "boot a kernel with CONFIG_SECCOMP_FILTER; crun sandboxes need it", required=False),
    Check("control groups", _control_groups),
)
