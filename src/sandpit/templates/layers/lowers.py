"""Looking into layers in overlayfs upper format, each through a descriptor of its root, without following a link anywhere."""

from __future__ import annotations

import os
import stat

OVERLAY_OPAQUE = "trusted.overlay.opaque"
OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_beneath(root: int, path: str, flags: int) -> int | None:
    """A descriptor; -1 when this layer hides the name, None when it does not have it."""
    descriptor = os.dup(root)
    *directories, last = path.strip("/").split("/")
    try:
        for name in (*directories, last):
            try:
                status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            except OSError:
                return None
            if stat.S_ISCHR(status.st_mode):
                return -1
            final = name is last
            how = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | flags if final else OPEN_DIRECTORY
            try:
                following = os.open(name, how, dir_fd=descriptor)
            except OSError:
                return -1  # something else than what was looked for
            os.close(descriptor)
            descriptor = following
        return os.dup(descriptor)
    finally:
        os.close(descriptor)


def shows(root: int, path: str) -> bool | None:
    """What a layer says of a path: True, it has it; False, it hides what lower layers have there; None, nothing."""
    descriptor, sealed = os.dup(root), False
    *directories, last = path.strip("/").split("/")
    try:
        for name in directories:
            sealed = sealed or is_opaque(descriptor)
            try:
                following = os.open(name, OPEN_DIRECTORY, dir_fd=descriptor)
            except FileNotFoundError:
                return False if sealed else None
            except OSError:
                return False  # no directory: a file, or a whiteout
            os.close(descriptor)
            descriptor = following
        sealed = sealed or is_opaque(descriptor)
        try:
            return not is_whiteout(os.stat(last, dir_fd=descriptor, follow_symlinks=False))
        except OSError:
            return False if sealed else None
    finally:
        os.close(descriptor)


def is_opaque(directory: str | int) -> bool:
    """Whether nothing of lower layers is seen in a directory."""
    try:
        return os.getxattr(directory, OVERLAY_OPAQUE) == b"y"
    except OSError:
        return False


def is_whiteout(status: os.stat_result) -> bool:
    """Whether a name stands for nothing, and hides what lower layers have there."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0
