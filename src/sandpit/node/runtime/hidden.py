"""What of the host's /proc a crun sandbox does not see.

The kernel has no namespace for most of /proc: it is the same for everybody. So what programs are known to need is listed here, and the
rest is covered, whatever a kernel has there: command line and configuration of the kernel, disks, interrupts, memory by zones, pressure...
What stays and is the host's: processors (cpuinfo, stat), memory and paging (meminfo, vmstat), load, uptime, and the kernel's version,
each of which system calls tell, too (sysinfo(2), uname(2)).
"""

from __future__ import annotations

from pathlib import Path

READ_ONLY = ("/proc/sys",)
_PROC = frozenset({
    "cgroups", "cpuinfo", "filesystems", "loadavg", "meminfo", "mounts", "net", "self", "stat", "sys", "sysvipc",
    "thread-self", "uptime", "version", "vmstat",
})  # fmt: skip
_SYS = frozenset({"crypto", "fs", "kernel", "net", "user", "vm"})
_SETTINGS = (
    "fs/aio-nr", "fs/binfmt_misc", "fs/dentry-state", "fs/file-nr", "fs/inode-nr", "fs/inode-state", "fs/nfs",
    "kernel/core_pattern", "kernel/firmware_config", "kernel/hotplug", "kernel/keys", "kernel/modprobe",
    "kernel/poweroff_cmd", "kernel/pty", "kernel/tainted", "kernel/usermodehelper",
)  # fmt: skip
"""Of /proc/sys: programs of the host by their paths, and how much the host has of something."""


def paths() -> list[str]:
    """All that this kernel shows and a sandbox need not see."""
    top = [path for path in _below("/proc", _PROC) if not path.rpartition("/")[2].isdigit()]
    settings = [f"/proc/sys/{name}" for name in _SETTINGS]
    return [*top, *_below("/proc/sys", _SYS), *(path for path in settings if Path(path).exists())]


def _below(folder: str, kept: frozenset[str]) -> list[str]:
    return sorted(str(path) for path in Path(folder).iterdir() if path.name not in kept)
