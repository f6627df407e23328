"""Looking at a server's directories and processes as other users of its machine do, and as its owner does."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.live import Live

_ASK = """
while IFS= read -r path; do
  answer=
  [ -r "$path" ] && answer=r
  [ -w "$path" ] && answer=${answer}w
  [ -x "$path" ] && answer=${answer}x
  echo "$answer"
done
"""


class Nobody:
    """A process of an unprivileged user of the host, which tries paths."""

    def __init__(self, user: int = 65534) -> None:
        self._command = [
            "setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all",
        ]  # fmt: skip
        self._process = subprocess.Popen(
            [*self._command, "sh", "-c", _ASK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()

    def may(self, path: Path) -> str:
        """Which of "r", "w" and "x" it may do."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{path}\n")
        return self._process.stdout.readline().strip()

    def runs(self, *command: str) -> bool:
        """Whether a program runs for it. A shell in between: setpriv itself has all capabilities until it has become something else."""
        through = ["sh", "-c", 'exec "$@"', "sh", *command]
        done = subprocess.run([*self._command, *through], capture_output=True, check=False, timeout=20)
        return done.returncode == 0

    def open_below(self, *tops: Path) -> Iterator[Path]:
        """What it can read, write or run below directories, whose names it is told: everything but passing through."""
        for top in tops:
            yield from self._open(top)

    def _open(self, directory: Path) -> Iterator[Path]:
        may = self.may(directory)
        if "r" in may or "w" in may:
            yield directory
        if "x" not in may:
            return  # nothing below can be reached
        for path in directory.iterdir():
            if path.is_dir():
                yield from self._open(path)
            elif self.may(path):
                yield path


def directories(live: Live) -> tuple[Path, Path]:
    return live.data_dir, live.run_dir


def mounts_below(live: Live) -> dict[str, set[str]]:
    """The host's mounts in a server's directories: mount point -> options (proc(5), mountinfo)."""
    tops = tuple(f"{top}/" for top in directories(live))
    lines = [line.split(" ") for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return {fields[4]: set(fields[5].split(",")) for fields in lines if fields[4].startswith(tops)}


def processes(live: Live) -> list[int]:
    """The host's processes in the control groups of a server's sandboxes."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if f"/{live.name}/" in (path / "cgroup").read_text():
                found.append(int(path.name))
        except OSError:
            continue
    return found


def environment(pid: int) -> dict[str, str]:
    """What a process was started with."""
    data = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    return dict(entry.split("=", 1) for entry in data.split("\0") if "=" in entry)


def descriptors(pid: int) -> set[str]:
    """Sockets, pipes and the like that a process has open."""
    links = {str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink()}
    return {link for link in links if link.startswith(("socket:", "pipe:"))}
