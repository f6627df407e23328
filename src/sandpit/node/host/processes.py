"""Processes that are not our children: sandboxes outlive the server that started them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process, named so that a reused pid is never mistaken for it."""

    pid: int
    start_ticks: int
    """Field 22 of /proc/pid/stat, in clock ticks since boot (proc(5))."""

    @classmethod
    def of(cls, pid: int) -> ProcessId:
        """Identify a live process. Raises: ProcessLookupError."""
        ticks = _start_ticks(pid)
        if ticks is None:
            raise ProcessLookupError(f"no process {pid}")
        return cls(pid, ticks)

    def alive(self) -> bool:
        """Whether this very process still runs; a zombie does not."""
        return _start_ticks(self.pid) == self.start_ticks

    async def wait(self) -> None:
        """Return when the process is dead."""
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            if not self.alive():
                return
            loop = asyncio.get_running_loop()
            dead = asyncio.Event()
            loop.add_reader(fd, dead.set)
            try:
                await dead.wait()
            finally:
                loop.remove_reader(fd)
        finally:
            os.close(fd)

    def set_timer_slack(self, seconds: float) -> None:
        """Let timers of all its threads fire this much late (proc(5), timerslack_ns)."""
        value = b"%d" % int(seconds * 1e9)
        if not self.alive():
            return
        with contextlib.suppress(OSError):  # it has just ended
            for thread in Path(f"/proc/{self.pid}/task").iterdir():
                with contextlib.suppress(OSError):  # a thread that has
                    descriptor = os.open(f"/proc/{thread.name}/timerslack_ns", os.O_WRONLY | os.O_CLOEXEC)
                    try:
                        os.write(descriptor, value)
                    finally:
                        os.close(descriptor)

    def die_first(self) -> None:
        """Have the kernel choose this process before all others when memory runs out (proc_pid_oom_score_adj(5))."""
        with contextlib.suppress(OSError):  # it has just ended
            if self.alive():
                Path(f"/proc/{self.pid}/oom_score_adj").write_text("1000")

    def kill(self) -> None:
        """Send SIGKILL to this very process, if it is still there."""
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            if self.alive():
                signal.pidfd_send_signal(fd, signal.SIGKILL)
        except ProcessLookupError:
            pass
        finally:
            os.close(fd)


def _start_ticks(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else int(fields[19])
