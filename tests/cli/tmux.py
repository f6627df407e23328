"""A terminal that people use, with a shell in it: tmux, on a server of its own."""

from __future__ import annotations

import re
import secrets
import shlex
import shutil
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

PATIENCE = 50.0
PROMPT = "local> "
needs_tmux = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")


class Tmux:
    """One window; it ends with the block."""

    def __init__(self, environment: Mapping[str, str], *, columns: int = 80, rows: int = 24) -> None:
        self._name = f"sandpit-{secrets.token_hex(4)}"
        self._environment = dict(environment)
        self._size = ("-x", str(columns), "-y", str(rows))

    def __enter__(self) -> Tmux:
        self._tmux("-f", "/dev/null", "new-session", "-d", *self._size, f"exec env PS1='{PROMPT}' sh")
        self.wait_for(rf"(?m)^{PROMPT}$")
        return self

    def __exit__(self, *_: object) -> None:
        self._tmux("kill-server")

    def _tmux(self, *arguments: str) -> str:
        command = ["tmux", "-L", self._name, *arguments]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=True)
        return done.stdout

    def type(self, text: str) -> None:
        """Type a line."""
        self._tmux("send-keys", "-l", text)
        self._tmux("send-keys", "Enter")

    def run(self, *command: str) -> None:
        """Type a command of the local shell."""
        self.type(shlex.join(command))

    def press(self, key: str) -> None:
        """A key by its name, for instance C-c."""
        self._tmux("send-keys", key)

    def resize(self, *, columns: int, rows: int) -> None:
        self._tmux("resize-window", "-x", str(columns), "-y", str(rows))

    def screen(self, *, colours: bool = False) -> str:
        """All that was shown, with lines joined that the window has wrapped."""
        return self._tmux("capture-pane", "-p", "-J", "-S", "-", *(["-e"] if colours else []))

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The first match in what is shown, now or later."""
        deadline = time.monotonic() + PATIENCE
        while not (match := re.search(pattern, self.screen())):
            assert time.monotonic() < deadline, f"{pattern!r} was never shown:\n{self.screen()}"
            time.sleep(0.05)
        return match

    def check_restored(self) -> None:
        """The local shell has its terminal back: lines are edited, characters shown, the screen is the usual one."""
        self.type(
            "stty -a | tr ' ;' '\\n\\n' | grep -xE -- '-?(icanon|echo|isig|opost|icrnl)' | sort | tr '\\n' ' '; echo end"
        )
        self.wait_for("echo icanon icrnl isig opost end")
        assert self._tmux("display-message", "-p", "#{alternate_on} #{mouse_any_flag} #{cursor_flag}").split() == [
            "0",
            "0",
            "1",
        ]
