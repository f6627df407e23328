"""`connect`, `create` and `spawn` in a real terminal: keys, colours, sizes, and every way out."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest
from tests.cli.tmux import PROMPT, Tmux, needs_tmux
from tests.cli.user import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.user import User

pytestmark = needs_tmux
REMOTE = r"(?m)^(~|/tmp) \$"
"""The prompt of the shell in the sandbox."""


@pytest.fixture
def tmux(user: User) -> Iterator[Tmux]:
    with Tmux(user.environment) as terminal:
        yield terminal


def test_a_session(user: User, sandbox: str, tmux: Tmux) -> None:
    """Keys, colours, the size and its changes, Ctrl-C, full-screen programs, Ctrl-D."""
    tmux.run(*user.program, "sandbox", "connect", sandbox, "-e", "PLACE=here", "-c", "/tmp")
    tmux.wait_for(REMOTE)
    tmux.type("echo $PLACE $(pwd) $(tty) $TERM; stty size")
    tmux.wait_for(r"here /tmp /dev/pts/\d+ \S+\n24 80")
    tmux.type(r"printf '\033[31mr%s\033[0m\n' ed")
    tmux.wait_for("(?m)^red$")
    assert re.search("\x1b\\[31mred", tmux.screen(colours=True))
    tmux.resize(columns=100, rows=30)
    tmux.type("until [ \"$(stty size)\" = '30 100' ]; do sleep 0.1; done; echo grown to $(stty size)")
    tmux.wait_for("(?m)^grown to 30 100$")
    tmux.type("echo sleeping; sleep 1000; echo woken with $?")
    tmux.wait_for("(?m)^sleeping$")
    tmux.press("C-c")
    tmux.wait_for(r"(?m)^sleeping\n\^?C?\n/tmp \$")
    tmux.type("echo after $((40 + 2))")
    tmux.wait_for("(?m)^after 42$")
    tmux.type("sh -c 'exit 5'")
    tmux.wait_for(r"exit 5'\n/tmp \$\s*\Z")  # to the shell, not to the command that still has the terminal
    tmux.press("C-d")
    tmux.wait_for(rf"Closing terminal connection to sandbox {sandbox}\n{PROMPT}")
    tmux.type("echo status $?")
    tmux.wait_for("(?m)^status 5$")
    tmux.check_restored()
    assert user.state(sandbox) == "running"


def test_the_sandbox_ends_under_it(user: User, sandbox: str, tmux: Tmux) -> None:
    """With a full-screen program's modes on: alternate screen, no cursor, mouse."""
    tmux.run(*user.program, "sandbox", "connect", sandbox)
    tmux.wait_for(REMOTE)
    tmux.type(r"printf '\033[?1049h\033[?25l\033[?1000h'; echo full $((6 * 7))")
    tmux.wait_for("full 42")
    user.kill(sandbox)
    tmux.wait_for("the sandbox has ended, or the connection to it was lost")
    tmux.check_restored()


def test_a_signal_ends_it(user: User, sandbox: str, tmux: Tmux) -> None:
    tmux.run(*user.program, "sandbox", "connect", sandbox)
    tmux.wait_for(REMOTE)
    found = subprocess.run(
        ["pgrep", "-f", f"sandpit.cli sandbox connect {sandbox}"], capture_output=True, text=True, check=True
    )
    os.kill(int(found.stdout), signal.SIGTERM)
    tmux.wait_for(rf"Terminal connecting[\s\S]*{PROMPT}")
    tmux.check_restored()


def test_create_ends_with_its_terminal(user: User, tmux: Tmux) -> None:
    tmux.run(*user.program, "sandbox", "create", "-m", "made=here")
    tmux.wait_for(REMOTE)
    (made,) = user.json("sandbox", "list", "-m", "made=here")
    tmux.type("exit")
    tmux.wait_for(f"Closed sandbox {made['sandboxID']}")
    assert user.state(made["sandboxID"]) == "gone"
    tmux.check_restored()


def test_spawn_takes_the_projects_template(user: User, tmux: Tmux, tmp_path: Path) -> None:
    (tmp_path / "e2b.toml").write_text('template_id = "base"\ndockerfile = "e2b.Dockerfile"\n')
    tmux.run(*user.program, "sandbox", "spawn", "-p", str(tmp_path), "--timeout", "100")
    tmux.wait_for(REMOTE)
    (made,) = user.json("sandbox", "list", "-t", "base")
    tmux.press("C-d")
    tmux.wait_for("Closing terminal connection")
    assert until(lambda: user.state(made["sandboxID"])) == "running"  # a timeout was given: it lives on


def test_choosing_one(user: User, tmux: Tmux) -> None:
    first, second = user.create(), user.create(metadata={"name": "wanted"})
    tmux.run(*user.program, "sandbox", "pause")
    tmux.wait_for("Which sandbox")
    number = tmux.wait_for(rf"(?m)^ +(\d)  {second}.*name=wanted").group(1)
    tmux.type("9")
    tmux.wait_for(r"Which sandbox[\s\S]*Which sandbox")
    tmux.type(number)
    tmux.wait_for(f"Sandbox {second} has been paused")
    tmux.run(*user.program, "sandbox", "kill", "--all", "--state", "running,paused")
    tmux.wait_for("Kill 2 sandboxes")
    tmux.type("n")
    tmux.wait_for("Aborted")
    assert (user.state(first), user.state(second)) == ("running", "paused")
