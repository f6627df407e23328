"""Where a container's first process prints to: memory of a fixed size, whatever is written.

A container keeps its standard output for life, and root in it can write there as much as it likes: a file would fill the host's disk.
"""

from __future__ import annotations

import fcntl
import os

SIZE = 64 << 10
_LAST_CHARACTERS = 2000


class BoundedLog:
    """The first 64 KiB that somebody prints; later writes fail (EPERM), and the writers go on. Close it."""

    def __init__(self) -> None:
        """Raises: OSError."""
        self.descriptor = os.memfd_create("log", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.descriptor, SIZE)
        seals = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
        fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, seals)

    def last_words(self) -> str:
        """The end of what was printed, for messages."""
        printed = os.pread(self.descriptor, SIZE, 0).rstrip(b"\0")
        return printed.decode(errors="replace").strip()[-_LAST_CHARACTERS:] or "(no output)"

    def close(self) -> None:
        """Look at it no longer; whoever prints to it can go on."""
        os.close(self.descriptor)
