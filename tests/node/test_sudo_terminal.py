"""`sudo` in interactive shells: job control, keys, hang-ups. Where set-user-ID works this is the real one, to compare with."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.machines import Box

_SHELL = """
import os, pty, select, subprocess, time

class Shell:
    def __init__(self):
        self.pid, self.fd = pty.fork()
        if not self.pid:
            os.environ["PS1"] = "ready> "
            os.execlp("bash", "bash", "--norc", "-i")
        self.seen = ""
        self.until("ready> ")

    def type(self, text):
        os.write(self.fd, text.encode())

    def until(self, text):
        end = time.monotonic() + 10
        while text not in self.seen:
            if not select.select([self.fd], [], [], max(0, end - time.monotonic()))[0]:
                raise SystemExit(f"no {text!r} in {self.seen!r}")
            self.seen += os.read(self.fd, 4096).decode()
        _, _, self.seen = self.seen.partition(text)

def running(pattern, wanted=True):
    end = time.monotonic() + 10
    while (subprocess.run(["pgrep", "-f", pattern], stdout=subprocess.DEVNULL).returncode == 0) != wanted:
        if time.monotonic() > end:
            raise SystemExit(f"{pattern} is not as it should be")
        time.sleep(0.05)

shell = Shell()
"""

_IN_THE_BACKGROUND = """
shell.type("sudo sh -c 'echo from-be''hind; exit 5' & wait $!; echo en''ded $?\\n")
shell.until("from-behind")
shell.until("ended 5")
shell.until("ready> ")
"""

_TO_THE_FOREGROUND = """
shell.type("sudo sh -c 'echo go''es; exec cat' &\\n")
shell.until("ready> ")
shell.until("goes")
running("^cat$")
shell.type("fg\\n")
shell.until("fg\\r\\n")
shell.until("cat'\\r\\n")
time.sleep(0.7)  # the shim looks now and then whether it is in front
shell.type("to-cat\\n")
shell.until("to-cat")
shell.until("to-cat")
"""

_STOPPED_AND_CONTINUED = """
subprocess.run(["pkill", "-STOP", "-f", "^/[.]sandpit.* sudo sudo "], check=True)
shell.until("Stopped")
shell.type("fg\\n")
shell.until("cat'\\r\\n")
time.sleep(0.7)
shell.type("once-more\\n")
shell.until("once-more")
shell.until("once-more")
"""

_KEYS = """
shell.type("\\x04")
shell.until("ready> ")
shell.type("sleep 301 | sudo sh -c 'echo go''es; exec cat'\\n")
shell.until("goes")
running("^cat$")
shell.type("\\x03")
shell.until("ready> ")
running("^cat$", False)
shell.type("sudo sh -c 'echo go''es; exec sleep 302'\\n")
shell.until("goes")
running("^sleep 302$")
shell.type("\\x03")
shell.until("ready> ")
running("^sleep 302$", False)
"""

_HUNG_UP = """
shell.type("nohup sudo sh -c 'sleep 1.5; touch /tmp/nohup-done' > /dev/null 2>&1 &\\n")
running("^sleep 1.5$")
shell.type("sudo sleep 303 &\\n")
running("^sleep 303$")
os.kill(shell.pid, 1)
os.close(shell.fd)
running("^sleep 303$", False)
running("^sleep 1.5$", False)
time.sleep(0.3)
print(os.path.exists("/tmp/nohup-done"))
"""


def test_job_control_and_keys(box: Box, runtime: str) -> None:
    stop = _STOPPED_AND_CONTINUED if runtime == "gvisor" else ""  # elsewhere it is root's, and not ours to stop
    box.python(_SHELL + _IN_THE_BACKGROUND + _TO_THE_FOREGROUND + stop + _KEYS, "user")


def test_a_terminal_that_hangs_up(box: Box) -> None:
    assert box.python(_SHELL + _HUNG_UP, "user") == "True"
