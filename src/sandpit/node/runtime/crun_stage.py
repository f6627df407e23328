"""Where crun finds what a sandbox's root is made of: a directory in crun's own mount namespace, seen by no other process of the host.

It is a small tmpfs over the node's `stage` directory, which stays empty for everybody else, with four things in it:

    root      the overlay of the sandbox's layers and disk. Set-user-ID programs work in it, devices do not
    closure   the guest closure, read-only
    boot_id   the file that stands for the kernel's boot id, which is the host's, and the same after a boot
    sys       what a sandbox sees as /sys: how many processors there are, as /proc/cpuinfo says too, and nothing else

Everything lies at the root of a file system of its own and is named by relative paths, so that a sandbox's list of mounts
(/proc/self/mountinfo) says nothing about the host's directories.
"""

from __future__ import annotations

import shlex
import uuid
from pathlib import Path

ROOT = "root"
CLOSURE = "closure"
BOOT_ID = "boot_id"
SYS = "sys"
OWNED = "owned"
"""In the bundle: the sandbox's disk, with its owners."""
_EMPTY, _LINK = "empty", "programs"
"""An overlay without an upper directory needs two others, and tells the size of the topmost one's file system."""

_PROCESSORS = "devices/system/cpu"
_PROCESSOR_LISTS = ("online", "possible", "present")
"""What lscpu and run-time libraries count processors by."""

_HIDE_UNIFIED = "if [ -d /sys/fs/cgroup/unified ]; then mount -t tmpfs none /sys/fs/cgroup/unified; fi"
"""crun refuses the hybrid layout while its v2 part has a controller, even when told to leave groups alone; hidden from crun alone,
the layout is a legacy one."""


def lower(number: int) -> str:
    """In the bundle: the name of a layer, with its owners; they are counted from the bottom."""
    return f"lower{number}"


def script(stage: Path, bundle: Path, closure: Path, layers: int) -> str:
    """Shell commands that fill the stage, for a mount namespace of their own."""
    lowers = ":".join(lower(number) for number in reversed(range(layers)))
    place = shlex.quote(str(stage))
    return " && ".join((
        "umask 022",
        f"mount -t tmpfs -o mode=0711,nosuid,nodev,size=64k stage {place}",
        f"cd {place}",
        f"mkdir -p {ROOT} {CLOSURE} {_EMPTY} {SYS}/{_PROCESSORS}",
        *(f"cp /sys/{_PROCESSORS}/{name} {SYS}/{_PROCESSORS}" for name in _PROCESSOR_LISTS),
        f"echo {uuid.uuid4()} > {BOOT_ID}",
        f"ln -s {shlex.quote(str(closure))} {_LINK}",
        f"mount -t overlay -o ro,nosuid,nodev,lowerdir={_EMPTY}:{_LINK} closure {CLOSURE}",
        f"cd {shlex.quote(str(bundle))}",
        f"mount -t overlay -o nodev,lowerdir={lowers},upperdir={OWNED}/upper,workdir={OWNED}/work root {place}/{ROOT}",
        _HIDE_UNIFIED,
    ))  # fmt: skip
