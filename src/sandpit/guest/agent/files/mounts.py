"""Which file systems are remote (current-protocol 6.2: inotify does not see what others do there)."""

from __future__ import annotations

import os
import re
from pathlib import Path

# 9p is not among them: gVisor shows its own root file system as 9p.
_REMOTE = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "ceph", "lustre", "fuse", "glusterfs"})
_MOUNTS = Path("/proc/self/mounts")


def remote_type(path: str) -> str | None:
    """The type of the remote file system that holds `path`, None when it is local. Blocking."""
    real = os.path.realpath(path)
    best, found = "", ""
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    for line in lines:
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[1]).rstrip("/")
        # A later mount on the same point hides the earlier one.
        if (real == point or real.startswith(point + "/")) and len(point) >= len(best):
            best, found = point, fields[2]
    return found if found in _REMOTE or found.startswith("fuse.") else None
