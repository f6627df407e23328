"""What this machine's processor is."""

from __future__ import annotations

from functools import cache
from pathlib import Path


@cache
def processor_features() -> str:
    """What this processor can do: a snapshot taken with more does not run with less."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("flags", "Features")):
            return line.partition(":")[2].strip()
    return ""
