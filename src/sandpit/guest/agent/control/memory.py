"""How the agent's allocator treats buffers.

glibc maps every buffer above 128 KiB anew and gives the heap's top back at once, so that streaming a file costs a page
fault, and a zeroed page, per 4 KiB: measured, 240 MB/s of upload instead of 420 on one core.
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_TRIM_BYTES = 8 << 20
_MMAP_BYTES = 4 << 20


def keep_buffers() -> None:
    """Keep up to 8 MiB of freed memory for the next buffers. Other C libraries than glibc stay as they are."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES)
