"""`sudo` is the same on both runtimes, although gVisor ignores set-user-ID bits (sandpit.guest.agent.sudo.elevate)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.machines import Box


def test_users_and_environment(box: Box) -> None:
    assert box.sh("sudo whoami; sudo -n -u nobody whoami; sudo -- id -u", "user").split() == ["root", "nobody", "0"]
    told = box.sh("cd /tmp && sudo sh -c 'echo $SUDO_USER $SUDO_UID $SUDO_GID $HOME $USER; pwd'", "user")
    assert told.splitlines() == ["user 1000 1000 /root root", "/tmp"]
    assert box.sh("A=1 sudo -E sh -c 'echo $A'; sudo B=2 sh -c 'echo $B'; A=1 sudo sh -c 'echo \"<$A>\"'", "user").split() == [
        "1", "2", "<>",
    ]  # fmt: skip
    assert box.sh("sudo -i sh -c 'pwd'; sudo -s echo shell", "user").split() == ["/root", "shell"]
    assert box.sh("umask 027; sudo touch /tmp/made; stat -c '%U %a' /tmp/made", "user") == "root 640"
    assert box.sh("sudo id -un") == "root"


def test_ends(box: Box) -> None:
    assert box.run("sudo sh -c 'exit 7'", "user")[0] == 7
    status, output = box.run("sudo no-such-program", "user")
    assert status == 1
    assert "command not found" in output
    assert box.sh("sudo sh -c 'kill -TERM $$'; echo $?", "user").splitlines()[-1] == "143"
    assert box.sh("sudo sleep 300 & sleep 1; kill -TERM $!; wait $!; echo $?; pgrep -c sleep || true", "user").split()[-2:] == [
        "143", "0",
    ]  # fmt: skip
    assert "sudo" in box.sh("sudo --version | head -1", "user").lower()


def test_pipes_are_passed_as_they_are(box: Box) -> None:
    box.sh("head -c 3000000 /dev/urandom > /tmp/data", "user")
    assert box.sh("sudo cat < /tmp/data | sudo tee /root/copy | cmp - /tmp/data && echo same", "user") == "same"
    assert (
        box.sh("printf x | sudo cat; sudo cat < /dev/null; sudo sh -c 'echo out; echo err >&2' 2>/dev/null", "user")
        == "xout"
    )


def test_many_at_once(box: Box) -> None:
    numbers = box.sh("for i in $(seq 12); do sudo echo $i & done | sort -n; wait", "user")
    assert numbers.split() == [str(number) for number in range(1, 13)]


def test_who_may_not_is_refused(box: Box) -> None:
    box.sh("useradd -m stranger; useradd -m asked; echo 'asked ALL=(ALL:ALL) ALL' > /etc/sudoers.d/asked")
    box.sh("useradd -m partly; echo 'partly ALL=(ALL) NOPASSWD: /bin/true' > /etc/sudoers.d/partly")
    for name in ("stranger", "asked", "nobody", "partly"):
        status, output = box.run("sudo -n whoami < /dev/null", name)
        assert status == 1, name
        assert output.strip() != "root", name
    box.sh("echo 'stranger ALL=(ALL:ALL) NOPASSWD: ALL' > /etc/sudoers.d/stranger")
    assert box.sh("sudo -n whoami", "stranger") == "root"
    box.sh("rm /etc/sudoers.d/stranger")
    assert box.run("sudo -n whoami", "stranger")[0] == 1


_FORGED = """
import array, os, socket, struct
PATH = "/run/sandpit/sudo.sock"
payload = b"22 0 2\\0sudo\\0whoami\\0"
head = struct.pack(">I", len(payload))
fds = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [os.open("/", os.O_RDONLY), 0, 1, 2]))
root = (socket.SOL_SOCKET, socket.SCM_CREDENTIALS, struct.pack("iII", os.getpid(), 0, 0))

def ask(head, ancillary, rest=b""):
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(8)
        s.connect(PATH)
        s.recv(1)
        try:
            s.sendmsg([head], ancillary)
            answer = s.recv(4096).decode()
            if answer == "go on\\n":
                s.sendall(rest)
                if rest != payload:
                    s.shutdown(socket.SHUT_WR)  # for one that is granted, this would be a terminal that hangs up
                answer += s.recv(4096).decode()
            return answer.replace("\\n", " ")
        except OSError as error:
            return str(error)
"""
_STRANGER = """
print(ask(head, [fds], payload))
print(ask(head, [root, fds], payload))
print(ask(head, [], payload))
print(ask(struct.pack(">I", 1 << 30), [fds]))
print(ask(head[:2], [fds]))
idle = [socket.socket(socket.AF_UNIX) for _ in range(600)]
import subprocess, time
for s in idle:
    for _ in range(100):  # gVisor's full queues do not wait
        try:
            s.connect(PATH)
            break
        except BlockingIOError:
            time.sleep(0.01)
print(subprocess.run(["sudo", "-n", "true"], capture_output=True, text=True).stderr.strip())
"""
_ALLOWED = """
for rest in (b"", b"x" * 40, b"[" * 200000, bytes(2 << 20), b"22 0 9\\0sudo\\0", b"22 0 1\\0bash\\0", b"22 1 1\\0sudo\\0"):
    print(ask(struct.pack(">I", len(rest)), [fds], rest))
print(ask(struct.pack(">I", 1 << 30), [fds]))
print(ask(head, [fds], payload))
"""


def test_forged_requests_harm_nobody(box: Box, runtime: str) -> None:
    if runtime != "gvisor":
        assert box.run("test -e /run/sandpit/sudo.sock")[0] == 1
        return
    answers = box.python(_FORGED + _STRANGER, "nobody").splitlines()
    assert len([answer for answer in answers if answer]) == 6
    assert not any("exit" in answer or "go on" in answer for answer in answers)  # refused before more is read
    assert "may not run everything" in answers[-1]  # idle connections keep nobody out
    box.sh('python3 -c \'import os; os.setuid(4321); os.execvp("sudo", ["sudo", "id"])\' 2>&1 | grep \'do not exist\'')
    answers = box.python(_FORGED + _ALLOWED, "user").splitlines()
    assert answers[0] == "root"  # not buffered, so it is first
    assert len(answers) == 10
    assert all(answer.startswith("go on error ") for answer in answers[1:-1])
    assert answers[-1] == "go on exit 0"


def test_shells_and_editors(box: Box) -> None:
    told = "echo 'echo $SUDO_USER $SUDO_UID $SUDO_GID $PWD; shopt login_shell; true' | sudo"
    assert box.sh(f"cd /tmp; {told} -i; {told} --shell", "user").split() == [
        "user", "1000", "1000", "/root", "login_shell", "on", "user", "1000", "1000", "/tmp", "login_shell", "off",
    ]  # fmt: skip
    box.sh("printf '#!/bin/sh\\necho edited > $1\\n' > /tmp/editor; chmod 755 /tmp/editor; touch /etc/one /etc/two")
    box.sh("EDITOR=/tmp/editor sudoedit /etc/one < /dev/null; EDITOR=/tmp/editor sudo -e /etc/two < /dev/null", "user")
    assert box.sh("cat /etc/one /etc/two; stat -c %U /etc/one").split() == ["edited", "edited", "root"]


def test_descriptors_that_are_closed(box: Box) -> None:
    assert box.sh("sudo readlink /proc/self/fd/0 <&-", "user") in {"/dev/null", "/dev/full"}
    assert box.sh("sudo sh -c 'echo lost; exit 4' >&- 2>&-; echo $?", "user") == "4"


def test_root_runs_the_real_one(box: Box) -> None:
    """Also where the agent could not help."""
    assert box.sh("rm -f /run/sandpit/sudo.sock; cd /tmp; sudo -u user id -un; sudo sh -c 'echo $SUDO_USER; pwd'").split() == [
        "user", "root", "/tmp",
    ]  # fmt: skip


def test_an_included_file_changes(box: Box) -> None:
    box.sh("useradd -m late; touch /srv/rules; echo '@include /srv/rules' > /etc/sudoers.d/more")
    assert box.run("sudo -n whoami", "late")[0] == 1
    box.sh("echo 'late ALL=(ALL:ALL) NOPASSWD: ALL' > /srv/rules; sleep 1")
    assert box.sh("sudo -n whoami", "late") == "root"
    box.sh("echo > /srv/rules; sleep 1")
    assert box.run("sudo -n whoami", "late")[0] == 1


def test_a_policy_that_never_answers(box: Box, runtime: str) -> None:
    if runtime != "gvisor":
        return
    box.sh("printf '#!/bin/sh\\nexec sleep 600\\n' > /usr/libexec/sandpit/sudo")
    status, output = box.run("sudo -n whoami", "user")
    assert status == 1
    assert "may not run everything" in output
    assert box.run("pgrep -f '^sleep 600'")[0] == 1


def test_an_upgrade_is_replaced_again(box: Box, runtime: str) -> None:
    """What package managers do: the new program is written beside the old one, and renamed."""
    real = "/usr/libexec/sandpit/sudo" if runtime == "gvisor" else "/usr/bin/sudo"
    box.sh(
        f"cp {real} /usr/bin/sudo.new; rm -rf /usr/libexec/sandpit; chmod 4755 /usr/bin/sudo.new; mv /usr/bin/sudo.new /usr/bin/sudo"
    )
    assert box.sh("sleep 0.3; sudo whoami", "user") == "root"
    if runtime == "gvisor":
        box.sh(
            "chmod 4755 /usr/bin/sudo; sleep 0.3"
        )  # the advice that real sudo gives must not put the shim in its own place
        assert box.sh("sudo whoami", "user") == "root"


@pytest.mark.parametrize("variable", ["LD_PRELOAD", "LD_LIBRARY_PATH", "BASH_ENV", "PYTHONPATH"])
def test_variables_that_would_run_code_are_dropped(box: Box, variable: str) -> None:
    assert box.sh(f"{variable}=/tmp/evil sudo -E sh -c 'echo \"<${variable}>\"' 2>/dev/null", "user") == "<>"
