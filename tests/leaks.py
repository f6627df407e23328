"""What tests leave behind: compared before and after every test, for the names that this test run owns and for its own process.

A node that lives longer than one test (`kept`) may hold its stock of network slots and its sandboxes' things, but nothing that belongs
to no sandbox any more.
"""

from __future__ import annotations

import gc
import os
import subprocess
import threading
import time
from pathlib import Path

from tests.machines import ROOT, RUN

_OWN = f"{RUN}x"
_CGROUPS = Path("/sys/fs/cgroup")
_PATIENCE = 30.0
"""Seconds for what is tidied up behind an answer."""
_USED_MARKS = ("runsc", "crun", "sandpit")
temporary: set[str] = set()
"""Where this run's temporary directories are: nothing may stay mounted below."""
kept: set[str] = set()
"""Names of nodes that outlive a test."""
kept_processes: set[int] = set()
"""Servers that outlive a test."""


def _entries(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except FileNotFoundError:
        return []


def _namespaces_and_links() -> set[str]:
    found = {f"network namespace {name}" for name in _entries("/run/netns") if name.startswith(_OWN)}
    return found | {f"network link {name}" for name in _entries("/sys/class/net") if name.startswith(_OWN)}


def _mounts() -> set[str]:
    with open("/proc/self/mountinfo") as file:
        points = [line.split(" ", 5)[4] for line in file]
    below = (f"{ROOT}/", *(f"{folder}/" for folder in temporary))
    return {f"mount {point}" for point in points if point.startswith(below)}


def _loops() -> set[str]:
    found = set()
    for name in _entries("/sys/block"):
        if name.startswith("loop"):
            try:
                with open(f"/sys/block/{name}/loop/backing_file") as file:
                    backing = file.read().strip()
            except OSError:
                continue
            if backing.startswith(f"{ROOT}/"):
                found.add(f"loop device /dev/{name} on {backing}")
    return found


def _groups() -> set[str]:
    found = set()
    hierarchies = [_CGROUPS, *(_CGROUPS / name for name in _entries(str(_CGROUPS)))]
    for hierarchy in hierarchies:
        for name in _entries(str(hierarchy)) if hierarchy.is_dir() else ():
            if name.startswith(_OWN):
                if name not in kept:
                    found.add(f"control group {hierarchy / name}")
                found |= {f"control group {path}" for path in (hierarchy / name).iterdir() if path.is_dir()}
    return found


def _processes() -> set[str]:
    """Processes that name this run's directories or nodes, and children of this process."""
    mark, own = str(ROOT).encode(), os.getpid()
    found = set()
    for pid in _entries("/proc"):
        if not pid.isdigit() or int(pid) == own or int(pid) in kept_processes:
            continue
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                command = file.read()
            with open(f"/proc/{pid}/stat", "rb") as file:
                stat = file.read()
        except OSError:
            continue
        parent = int(stat[stat.rindex(b")") + 4 :].split(b" ", 1)[0])
        if mark in command or parent == own:
            text = command.replace(b"\0", b" ").decode(errors="replace").strip() or "(a zombie)"
            found.add(f"process {pid} {text[:2000]}")
    return found


def _tables() -> set[str]:
    done = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True)
    return {f"nft {line}" for line in done.stdout.splitlines() if line.split()[-1].startswith(_OWN)}


def _files() -> set[str]:
    found = set()
    for node in _entries(str(ROOT)):
        found |= {
            f"directory {ROOT / node / 'data/sandboxes' / name}" for name in _entries(f"{ROOT}/{node}/data/sandboxes")
        }
        for runtime in ("runsc", "crun"):
            found |= {
                f"file {ROOT / node / 'run' / runtime / name}" for name in _entries(f"{ROOT}/{node}/run/{runtime}")
            }
        if node not in kept:
            found.add(f"directory {ROOT / node}")
    return found


def _own() -> set[str]:
    """This process's threads, and descriptors of sockets, pipes and the like."""
    found = {
        f"thread {thread.name}"
        for thread in threading.enumerate()
        if not thread.name.startswith(("node ", "uvloop_", "asyncio_"))
    }
    for number in _entries("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue
        if target.startswith(
            ("socket:", "pipe:", "anon_inode:[eventpoll]", "anon_inode:[pidfd]", "anon_inode:[io_uring]")
        ):
            found.add(f"descriptor {number} -> {target}")
    return found


def holdings(*, nodes: bool, own: bool = True) -> set[str]:
    """Everything of this test run that is there now.

    `nodes`: whether nodes have run, so that a look at all places pays. `own`: this process's threads and descriptors count too.
    """
    found = _processes() | _mounts()
    if own:
        found |= _own()
    if nodes:
        found |= _namespaces_and_links() | _loops() | _groups() | _tables() | _files()
    return found


def _excused(thing: str, claimed: set[str]) -> bool:
    """Whether something belongs to a node that goes on: its slots, and what its living sandboxes hold."""
    for name in kept:
        if f"nft table netdev {name}" == thing or f"nft table ip {name}" == thing:
            return True
        if thing.startswith(f"mount {ROOT / name / 'run/closure'}/"):
            return True
        if thing.startswith((f"network namespace {name}-", f"network link {name}-")):
            return True
    return any(container in thing for container in claimed)


def living() -> set[str]:
    """Container ids of sandboxes that wait in kept nodes' pools."""
    import json

    found = set()
    for name in kept:
        for container in _entries(f"{ROOT}/{name}/data/sandboxes"):
            try:
                record = json.loads((ROOT / name / "data/sandboxes" / container / "record.json").read_text())
            except (OSError, ValueError):
                continue
            if record["sandbox_id"] is None:
                found.add(container)
    return found


def new_since(before: set[str], *, nodes: bool, own: bool = True) -> list[str]:
    """What is there now and was not before, after giving it time to go."""
    deadline = time.monotonic() + _PATIENCE
    pause = 0.005
    while True:
        claimed = living() if kept else set()
        extra = sorted(thing for thing in holdings(nodes=nodes, own=own) - before if not _excused(thing, claimed))
        if not extra or time.monotonic() > deadline:
            return extra
        gc.collect()
        time.sleep(pause)
        pause = min(2 * pause, 0.25)
