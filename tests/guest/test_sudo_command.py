"""What sudo's arguments mean (sudo(8)), and what is read of a request."""

from __future__ import annotations

import pytest

from sandpit.guest.agent.accounts import Account
from sandpit.guest.agent.sudo.command import named_caller, read_arguments, safe_environment
from sandpit.guest.agent.sudo.request import RefusedError, Request, parse

CALLER = Account("user", 1000, 1001, (1001,), "/home/user")
NAMED = ["/usr/bin/env", "SUDO_USER=user", "SUDO_UID=1000", "SUDO_GID=1001"]


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("whoami", "whoami"),
        ("-n whoami -u", "whoami"),
        ("-u root ls -la", "ls"),
        ("-uroot ls", "ls"),
        ("-nu root ls", "ls"),
        ("-nuroot ls", "ls"),
        ("--user root ls", "ls"),
        ("--user=root ls", "ls"),
        ("--us root ls", "ls"),
        ("--preserve-env ls", "ls"),
        ("--preserve-env=A ls", "ls"),
        ("-E A=1 B=2 make C=3", "make"),
        ("-- -odd", "-odd"),
        ("-g staff -D /tmp pwd", "pwd"),
        ("-i", None),
        ("-s", None),
        ("", None),
        ("A=1", None),
        ("-u", None),
        ("-", "-"),
    ],
)
def test_where_the_command_begins(line: str, command: str | None) -> None:
    argv = ["sudo", *line.split()]
    _, place = read_arguments(argv)
    assert (argv[place] if place < len(argv) else None) == command


def test_the_caller_is_named_in_front_of_the_command() -> None:
    named = named_caller(["sudo", "-n", "sh", "-c", "x"], CALLER)
    assert named == ["sudo", "-n", *NAMED, "sh", "-c", "x"]
    for line in ("sudo -l sh", "sudo --list sh", "sudo --edit sh", "sudo -nv", "sudo -e sh", "sudoedit sh", "sudo --pre sh",
                 "sudo --nonsense sh", "sudo no-such-program", "sudo", "sudo -k"):  # fmt: skip
        assert named_caller(line.split(), CALLER) == line.split()


def test_the_caller_is_named_to_a_shell() -> None:
    assert named_caller(["sudo", "-u", "x", "-s"], CALLER) == ["sudo", "-u", "x", "-s", "exec", *NAMED, "$SHELL"]
    for line in ("sudo -i", "sudo --login", "sudo -ni", "sudo -iu root", "sudo -i --", "sudo -i A=1"):
        assert named_caller(line.split(), CALLER) == [*line.split(), "exec", *NAMED, "$SHELL", "-l"]


def test_environment() -> None:
    given = {"A": "1", "LD_PRELOAD": "x", "LD_AUDIT": "x", "PYTHONPATH": "x", "GLIBC_TUNABLES": "x", "PATH": "/bin"}
    assert safe_environment(given) == {"A": "1", "PATH": "/bin"}


def test_a_request_is_read() -> None:
    assert parse(b"22 1 2\0sudo\0-n\0A=b=c\0\xff=\0") == Request(
        ["sudo", "-n"], {"A": "b=c", "\udcff": ""}, 0o22, terminal=True
    )
    assert parse(b"777 0 1\0sudoedit\0") == Request(["sudoedit"], {}, 0o777, terminal=False)


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"\0", b"{}", b"[[[[", b"22 1 1", b"22 1 1\0", b"22 1 1\0sudo", b"22 1 2\0sudo\0", b"22 1 0\0sudo\0", b"22 1 0\0",
        b"22 1 -1\0sudo\0", b"22 1 1\0bash\0", b"22 1 1\0/usr/bin/sudo\0", b"22 1 1\0sudo\0A\0", b"22 1 1\0sudo\0=a\0",
        b"22 1 1\0sudo\0\0", b"8 1 1\0sudo\0", b"1777 1 1\0sudo\0", b"22 2 1\0sudo\0", b"22 1 99999999\0sudo\0",
        b"22 1 1 \0sudo\0", b"\xb2 1 1\0sudo\0", b"22 1 1\0sudo\0A=1", bytes(2 << 20),
    ],
)  # fmt: skip
def test_a_malformed_request_is_refused(payload: bytes) -> None:
    with pytest.raises(RefusedError):
        parse(payload)
