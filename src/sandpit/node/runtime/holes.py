"""Known holes of runtime releases, by their dates: what `sandpit doctor` and the server's start say of the release that they find.

A release counts as fixed from the first of the month after the one in which a fix was published: which daily release had it first is not
always said, and a warning too many costs an update.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

CURRENT = (
    "install a current release of runsc (https://gvisor.dev/docs/user_guide/install/) on PATH, remove bin/runsc from the data "
    "directory and call: sandpit prepare"
)


@dataclass(frozen=True, slots=True)
class Hole:
    """One hole; `fixed` is the date (YYYYMMDD) from which on releases do not have it."""

    name: str
    what: str
    fixed: int


GVISOR = (
    Hole("CVE-2025-2713", "runsc starts with rights over files that its user does not have", 20250401),
    Hole("CVE-2026-96812", "a device node in a directory that the gofer serves is opened on the host", 20260901),
)


CRUN_UNUSED = Hole("CVE-2025-24965", "concerns the handler krun, which Sandpit does not use", 12000)
"""`fixed` is crun's version, as `crun_number` gives it (GHSA-f42g-r5jj-qh4j)."""


def crun_number(version: str) -> int | None:
    """The version in what `crun --version` says, `crun version 1.8.1`, as a number that grows with it (10801). None: it has none."""
    found = re.search(r"\bcrun version (\d+)\.(\d+)(?:\.(\d+))?", version)
    return int(found[1]) * 10_000 + int(found[2]) * 100 + int(found[3] or 0) if found else None


def release_date(version: str) -> int | None:
    """The date (YYYYMMDD) in what `runsc --version` says: `release-20240729.0`, or `0.0~20240729.0` of Debian. None: it has none."""
    found = re.search(r"(?:release-|\b0\.0~)(20\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01]))\b", version)
    return int(found[1]) if found else None


def known_holes(version: str) -> tuple[Hole, ...] | None:
    """The holes of the gVisor release that calls itself `version`; None when its age is unknown."""
    date = release_date(version)
    return None if date is None else tuple(hole for hole in GVISOR if date < hole.fixed)


def describe(version: str) -> str | None:
    """What is wrong with a gVisor release, in one line; None if nothing is known to be."""
    holes = known_holes(version)
    if holes is None:
        return f"{version!r} has no date: whether it has {' or '.join(hole.name for hole in GVISOR)} is unknown"
    if not holes:
        return None
    return "known holes: " + "; ".join(f"{hole.name} ({hole.what})" for hole in holes)
