"""Layers have no device nodes: sandboxes have a /dev of their own, and one that is opened on the host would be the host's device."""

from __future__ import annotations

import os
from pathlib import Path

from sandpit.templates.layers.lowers import is_whiteout


def drop_devices(fs: Path, *, below: Path | None = None) -> list[str]:
    """Remove devices below `dev/` of a tree, and return the names of others; look only `below` if given. Blocking. Raises: OSError.

    Names that hide what lower layers have (whiteouts) look like devices and stay: the number 0:0 opens nothing.
    """
    found: list[str] = []
    for folder, _, names in os.walk(below or fs):
        for name in names:
            path = Path(folder, name)
            if not _is_device(path):
                continue
            if path.relative_to(fs).parts[0] == "dev":
                path.unlink()
            else:
                found.append(str(path.relative_to(fs)))
    return found


def _is_device(path: Path) -> bool:
    if path.is_file() or path.is_symlink():
        return False
    return (path.is_char_device() or path.is_block_device()) and not is_whiteout(path.lstat())
