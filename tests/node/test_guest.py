"""A sandbox is an ordinary Linux machine: the same checks on every runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.machines import Box


def test_users(box: Box) -> None:
    assert box.sh("id -un; id -u") == "root\n0"
    assert box.sh("id -un; pwd; echo $HOME", "user") == "user\n/home/user\n/home/user"
    status, output = box.run("cat /etc/shadow", "user")
    assert status != 0
    assert "Permission denied" in output


def test_every_file_of_the_root_can_be_listed(box: Box) -> None:
    output = box.sh("ls -la / /.sandpit /etc /home /root /tmp /var /usr/local 2>&1")
    assert "cannot" not in output
    assert "?????" not in output
    assert box.sh("stat -c '%U %a' / /tmp /root /usr/bin/passwd").splitlines() == [
        "root 755", "root 1777", "root 700", "root 4755",
    ]  # fmt: skip


def test_programs_with_file_capabilities(box: Box) -> None:
    """Looked at, copied, replaced and run, as `find`, `tar` and package managers do."""
    assert "ping" in box.sh(
        "find /usr/bin -name ping -exec ls -la {} + && tar -cf /dev/null /usr/bin/ping && du /usr/bin/ping", "user"
    )
    box.sh("cp -a /usr/bin/ping /tmp/ping && cp -a /tmp/ping /usr/bin/ping.new && mv /usr/bin/ping.new /usr/bin/ping")
    box.sh("/usr/bin/ping -V")
    for user in ("user", "root"):
        box.sh("/usr/bin/ping -c1 -W2 127.0.0.1", user)


def test_alternatives_with_manual_pages(box: Box) -> None:
    """What the packages of Java and others do when they are configured."""
    box.sh(
        "touch /tmp/prog.1.gz && update-alternatives --install /usr/bin/prog prog /bin/true 1"
        " --slave /usr/share/man/man1/prog.1.gz prog.1.gz /tmp/prog.1.gz && test -e /usr/share/man/man1/prog.1.gz"
    )


def test_sources_are_named_once(box: Box) -> None:
    lines = box.sh("cat /etc/apt/sources.list $(find /etc/apt/sources.list.d -type f) | grep ^deb").splitlines()
    assert lines
    assert len(lines) == len(set(lines))


def test_files(box: Box) -> None:
    box.sh("mkdir -p /data/a && echo hello > /data/a/b && ln -s b /data/a/link && ln /data/a/b /data/a/hard")
    assert box.sh("cat /data/a/link; readlink /data/a/link; stat -c %h /data/a/b") == "hello\nb\n2"
    box.sh("chown user:user /data/a/b && chmod 640 /data/a/b && mv /data/a/b /data/a/c")
    assert box.sh("stat -c '%U:%G %a' /data/a/c") == "user:user 640"
    box.python(
        "import os; os.setxattr('/data/a/c', 'user.sandpit', b'1'); print(os.getxattr('/data/a/c', 'user.sandpit'))"
    )
    assert box.sh(
        "echo changed >> /etc/hosts.allow; rm /etc/debian_version; ls /etc/debian_version 2>&1 || true"
    ).startswith("ls:")
    assert box.sh("mkfifo /data/pipe && (echo through > /data/pipe & cat /data/pipe)") == "through"


def test_whole_directories_of_the_image_can_be_replaced(box: Box) -> None:
    box.sh("mv /opt /opt2 && mkdir /opt && mv /usr/local/bin /usr/local/bin2 && rm -rf /var/log && mkdir /var/log")
    assert box.sh("ls -d /opt /opt2 /usr/local/bin2") == "/opt\n/opt2\n/usr/local/bin2"


def test_processes(box: Box) -> None:
    assert box.sh("sleep 60 & kill $!; wait $!; echo $?").splitlines()[-1] == "143"
    assert box.sh("for i in 1 2 3 4 5 6 7 8; do sleep 0.1 & done; wait; echo done") == "done"
    assert box.sh("seq 1 100000 | sort -rn | head -1") == "100000"
    assert (
        box.python("import multiprocessing as m\nwith m.get_context('fork').Pool(2) as p: print(p.map(abs, [-1, -2]))")
        == "[1, 2]"
    )
    assert (
        box.python("import threading\nt = threading.Thread(target=print, args=('thread',)); t.start(); t.join()")
        == "thread"
    )


def test_programs_of_the_template(box: Box) -> None:
    for program in (
        "python3 --version",
        "git --version",
        "node --version",
        "npm --version",
        "curl --version",
        "gcc --version",
    ):
        box.sh(program, "user")
    box.sh(
        "cd /tmp && git init -q repo && cd repo && git -c user.name=a -c user.email=b commit -q --allow-empty -m first",
        "user",
    )
    box.sh("cd /tmp && printf 'int main(){return 7;}' > a.c && gcc a.c -o a && ./a; [ $? = 7 ]", "user")


def test_local_servers(box: Box) -> None:
    assert (
        box.python(
            "import socket\nfor family, host in ((socket.AF_INET, '127.0.0.1'), (socket.AF_UNIX, '/tmp/s')):\n"
            "    server = socket.socket(family); server.bind((host, 0) if family == socket.AF_INET else host); server.listen()\n"
            "    client = socket.socket(family); client.connect(server.getsockname()); server.accept()[0].send(b'x')\n"
            "    print(client.recv(1))"
        )
        == "b'x'\nb'x'"
    )
    assert "127.0.0.1" in box.sh("getent ahostsv4 localhost")


def test_identity(create: Callable[..., Box]) -> None:
    first, second = create(), create()
    assert first.sh("hostname; cat /etc/hostname").split() == [first.id, first.id]
    for command in (
        "hostname",
        "cat /etc/machine-id",
        "head -c 16 /dev/urandom | od -An -tx1",
        "python3 -c 'import random; print(random.random())'",
        "python3 -c 'import uuid; print(uuid.uuid4())'",
        "openssl rand -hex 16 2>/dev/null || node -e 'console.log(crypto.randomUUID())'",
    ):
        assert first.sh(command) != second.sh(command), command
    for name in ("E2B_SANDBOX", "E2B_SANDBOX_ID", "E2B_TEMPLATE_ID"):
        assert first.sh(f"cat /run/e2b/.{name}", "user") == first.sh(f"echo ${name}", "user"), name
    assert first.sh("cat /run/e2b/.E2B_SANDBOX_ID", "user") == first.id


def test_the_clock_is_right(box: Box) -> None:
    import time

    before = time.time()
    inside = float(box.sh("date +%s.%N"))
    assert before - 1 <= inside <= time.time() + 1


def test_environment_holds_nothing_of_the_host(box: Box) -> None:
    names = {line.partition("=")[0] for line in box.sh("tr '\\0' '\\n' < /proc/1/environ").splitlines()}
    assert names <= {"PATH", "HOME", "TERM", "HOSTNAME"}
    names = {line.partition("=")[0] for line in box.sh("env -0 | tr '\\0' '\\n'", "user").splitlines()}
    assert names <= {
        "PATH", "HOME", "USER", "LOGNAME", "SHELL", "PWD", "OLDPWD", "SHLVL", "_", "LANG", "TERM", "MAIL",
        "E2B_SANDBOX", "E2B_SANDBOX_ID", "E2B_TEMPLATE_ID",
    }  # fmt: skip
