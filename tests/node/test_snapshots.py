"""Snapshots of running sandboxes: what is kept, what goes on, and that nothing is lost when it fails."""

from __future__ import annotations

import itertools
import shutil
from typing import TYPE_CHECKING

import pytest
from tests import rounds
from tests.machines import RUNTIMES, Box, Machine, wait_for

from sandpit.contract.errors import AgentUnresponsive, NodeError, SnapshotDamaged, UnknownSandbox, UnknownSnapshot
from sandpit.contract.node import RunningSandbox, SandboxSpec, SnapshotInfo
from sandpit.node.guests.agent import AgentUnavailable
from sandpit.node.runtime.gvisor import Gvisor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_numbers = itertools.count(1)


class Kept:
    """A snapshot and the sandboxes made from it, all removed with the test."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.names: list[str] = []
        self.boxes: list[Box] = []

    def take(self, box: Box, *, memory: bool = True, end: bool = False) -> SnapshotInfo:
        name = f"snap-{next(_numbers)}"
        self.names.append(name)
        return self.machine.wait(self.machine.node.snapshot(box.id, name, memory=memory, end=end))

    def start(self, info: SnapshotInfo, sandbox_id: str, *, resumed: bool = False, memory: bool = True) -> Box:
        spec = SandboxSpec(
            sandbox_id, "base", info.build_id, None, snapshot_id=info.snapshot_id, resumed=resumed, memory=memory
        )
        box = Box(self.machine, self.machine.wait(self.machine.node.create(spec)))
        self.boxes.append(box)
        return box

    def close(self) -> None:
        for box in self.boxes:
            if box.id in self.machine.node._sandboxes:
                box.kill()
        for name in self.names:
            self.machine.wait(self.machine.node.remove_snapshot(name))


@pytest.fixture
def kept(machine: Machine) -> Iterator[Kept]:
    kept = Kept(machine)
    yield kept
    kept.close()
    assert machine.node.snapshots() == []


FILES = r"""
mkdir -p /opt/kept/deep; echo new > /opt/kept/file; ln /opt/kept/file /opt/kept/hard; ln -s file /opt/kept/soft
echo theirs > /opt/kept/owned; chown 1000:1000 /opt/kept/owned; chmod 4751 /opt/kept/owned; touch -d 2001-02-03T04:05:06Z /opt/kept/owned
mkfifo /opt/kept/fifo; head -c 300000 /dev/urandom > /opt/kept/blob; sha256sum /opt/kept/blob > /opt/kept/sum
rm /etc/issue; rm -r /etc/skel; mkdir /etc/skel; echo only > /etc/skel/only
python3 -c 'import os; os.setxattr("/opt/kept/file", "user.note", b"\xff attribute")'
"""
CHECK = r"""
cd /opt/kept; cat file; stat -c '%h %a %u:%g %Y' file owned; readlink soft; test -p fifo && echo fifo; sha256sum -c --quiet sum && echo same
test ! -e /etc/issue && echo gone; ls /etc/skel; python3 -c 'import os; print(os.getxattr("/opt/kept/hard", "user.note")[-9:].decode())'
"""
CHECKED = "new\n2 644 0:0 {}\n1 4751 1000:1000 981173106\nfile\nfifo\nsame\ngone\nonly\nattribute"


def changed(box: Box) -> str:
    """Change the file system in every way; returns what `CHECK` must print."""
    box.sh(FILES)
    return CHECKED.format(box.sh("stat -c %Y /opt/kept/file"))


@pytest.mark.parametrize("runtime", ["gvisor"])
def test_processes_go_on_where_they_were(box: Box, kept: Kept, runtime: str) -> None:
    box.sh(
        "cat > /tmp/count.py <<'END'\nimport os, tempfile, time\n"
        "gone = tempfile.TemporaryFile()\nn = 0\nwhile True:\n    n += 1\n"
        "    gone.seek(0); gone.write(b'%d' % n); gone.flush(); gone.seek(0)\n"
        "    open('/tmp/count.new', 'w').write(f'{os.getpid()} {n} {gone.read().decode()}')\n"
        "    os.rename('/tmp/count.new', '/tmp/count')\n    time.sleep(0.05)\nEND\n"
        "(setsid python3 /tmp/count.py > /dev/null 2>&1 &) ; until [ -s /tmp/count ]; do sleep 0.1; done"
    )
    files = changed(box)
    boot = box.sh("cat /proc/sys/kernel/random/boot_id")
    info = kept.take(box, end=True)
    assert info.memory
    assert info.size > 1 << 20
    with pytest.raises(UnknownSandbox):
        box.metrics()
    again = kept.start(info, box.id, resumed=True)
    pid, before, deleted = again.sh("cat /tmp/count").split()
    assert before == deleted
    again.sh(f"until [ $(cut -d' ' -f2 /tmp/count) -gt $(({before} + 5)) ]; do sleep 0.1; done; test -d /proc/{pid}")
    assert again.sh(CHECK) == files
    assert again.sh("cat /proc/sys/kernel/random/boot_id") == boot


@pytest.mark.parametrize("runtime", ["gvisor"])
def test_copies_and_the_original_go_their_own_ways(box: Box, kept: Kept, runtime: str) -> None:
    box.sh("echo shared > /root/file; (setsid sleep 1000 > /dev/null 2>&1 &)")
    info = kept.take(box)
    copies = [kept.start(info, f"{box.id}copy{number}") for number in range(2)]
    for number, one in enumerate((box, *copies)):
        assert one.sh("cat /root/file; pgrep -c sleep") == "shared\n1"
        one.sh(f"echo {number} > /root/file")
    everyone = (box, *copies)
    assert [one.sh("cat /root/file") for one in everyone] == ["0", "1", "2"]
    for question in ("hostname", "cat /etc/machine-id", "head -c 16 /dev/urandom | base64"):
        assert len({one.sh(question) for one in everyone}) == 3, question


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_file_system_alone(box: Box, kept: Kept, runtime: str) -> None:
    files, boot = changed(box), box.sh("cat /proc/sys/kernel/random/boot_id")
    box.sh("(setsid sleep 1000 > /dev/null 2>&1 &)")
    info = kept.take(box, memory=False)
    assert not info.memory
    assert box.sh("pgrep -c sleep") == "1"
    box.sh("echo later > /opt/kept/later")
    ended = kept.take(box, memory=False, end=True)
    with pytest.raises(UnknownSandbox):
        box.metrics()
    copy, again = kept.start(info, f"{box.id}copy"), kept.start(ended, box.id, resumed=True)
    assert copy.sh(CHECK) == again.sh(CHECK) == files
    boots = {boot, *(one.sh("cat /proc/sys/kernel/random/boot_id") for one in (copy, again))}
    assert len(boots) == 3
    assert again.sh("cat /opt/kept/later; pgrep -c sleep || true") == "later\n0"
    assert copy.sh("ls /opt/kept/later 2>&1 || true").endswith("No such file or directory")
    # What was written is still writable, and a second life can be kept as well as the first.
    again.sh("echo more >> /opt/kept/file; rm /etc/skel/only; touch /.disk /.restore")
    third = kept.start(kept.take(again, memory=False), f"{box.id}third")
    assert third.sh("cat /opt/kept/hard; ls -A /etc/skel; ls -d /.disk /.restore") == "new\nmore\n/.disk\n/.restore"


@pytest.mark.parametrize("runtime", ["crun"])
def test_without_live_snapshots_the_file_system_is_kept(box: Box, kept: Kept, runtime: str) -> None:
    box.sh("echo kept > /root/file")
    info = kept.take(box, end=True)
    assert not info.memory
    assert kept.start(info, box.id, resumed=True).sh("cat /root/file") == "kept"


@pytest.mark.parametrize("runtime", ["gvisor"])
def test_memory_can_be_left_out_at_start(box: Box, kept: Kept, runtime: str) -> None:
    files = changed(box)
    box.sh("(setsid sleep 1000 > /dev/null 2>&1 &)")
    info = kept.take(box, end=True)
    again = kept.start(info, box.id, resumed=True, memory=False)
    assert again.sh("pgrep -c sleep || true") == "0"
    assert again.sh(CHECK) == files


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_damage_is_refused(box: Box, kept: Kept, machine: Machine, runtime: str) -> None:
    info = kept.take(box)
    directory = machine.data_dir / "sandbox-snapshots" / info.snapshot_id
    victim = max(directory.iterdir(), key=lambda path: path.stat().st_size)
    with victim.open("r+b") as file:
        file.seek(info.size // 2)
        byte = file.read(1)
        file.seek(info.size // 2)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(SnapshotDamaged, match="not what was written"):
        kept.start(info, f"{box.id}copy")
    assert box.sh("echo on") == "on"
    with pytest.raises(UnknownSnapshot):
        kept.start(SnapshotInfo("never-taken", info.build_id, True, 0), f"{box.id}other")
    with pytest.raises(UnknownSnapshot):
        kept.start(SnapshotInfo("../base", info.build_id, True, 0), f"{box.id}other")


@pytest.mark.parametrize("runtime", ["gvisor"])
def test_rounds(box: Box, kept: Kept, runtime: str) -> None:
    """State of every kind (tests.rounds) is changed in each life, and there in the next."""
    assert box.sh(rounds.START) == "0"
    for number in range(1, 6):
        info = kept.take(box, end=True)
        box = kept.start(info, box.id, resumed=True)
        assert box.sh(rounds.ASK.format(number)) == str(number)


@pytest.mark.parametrize("runtime", ["gvisor"])
def test_another_release_boots_from_the_kept_file_system(
    box: Box,
    kept: Kept,
    machine: Machine,
    runtime: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    """The release that took the snapshot is kept beside it; without it the snapshot stays, and the error says what is missing."""
    files = changed(box)
    box.sh("(setsid sleep 1000 > /dev/null 2>&1 &)")
    info = kept.take(box, end=True)
    driver = machine.node._runtimes["gvisor"]
    assert isinstance(driver, Gvisor)
    before, binary = driver.release(), driver._kept
    assert binary.parent == machine.data_dir / "releases/gvisor"
    newer = tmp_path / "runsc"
    newer.write_bytes(binary.read_bytes() + b"\0")
    monkeypatch.setattr(driver, "_kept", driver._releases.keep(newer))
    aside = binary.rename(tmp_path / "aside")
    with pytest.raises(NodeError, match=f"needs the gvisor release {before[:12]}, which is gone"):
        kept.start(info, box.id, resumed=True)
    assert machine.node.snapshots() == [info]
    shutil.copy(aside, binary)
    again = kept.start(info, box.id, resumed=True)
    assert "its processes are lost: another release of the runtime took it" in caplog.text
    assert again.sh("pgrep -c sleep || true") == "0"
    assert again.sh(CHECK) == files


@pytest.mark.parametrize("runtime", ["gvisor"])
def test_a_snapshot_of_a_sentry_that_opened_files_itself_is_opened_the_same_way(
    machine: Machine, kept: Kept, runtime: str
) -> None:
    """Earlier releases of Sandpit took them."""
    driver = machine.node._runtimes["gvisor"]
    assert isinstance(driver, Gvisor)

    async def launched() -> RunningSandbox:
        older = await machine.node._launcher.launch(await machine.node._templates.stack(machine.images[0]))
        older.sandbox_id = "older"
        machine.node._keep(older)
        return RunningSandbox("older", older.address)

    driver._direct = True
    try:
        box = Box(machine, machine.wait(launched()))
        files = changed(box)
        box.sh("(setsid sleep 1000 > /dev/null 2>&1 &)")
        info = kept.take(box, end=True)
    finally:
        driver._direct = False
    again = kept.start(info, "older", resumed=True)
    assert again.sh(CHECK) == files
    assert again.sh("pgrep -c sleep") == "1"


HOLD_AGENT = r"""
cat > /root/hold.py <<'END'
import ctypes, time
libc = ctypes.CDLL(None, use_errno=True)
time.sleep(0.2)
assert libc.ptrace(16, 1, 0, 0) == 0  # PTRACE_ATTACH
time.sleep(1000)
END
(setsid python3 /root/hold.py > /dev/null 2>&1 &)
"""


@pytest.mark.parametrize("runtime", ["gvisor"])
def test_what_does_not_answer_boots_from_its_files(
    box: Box, kept: Kept, machine: Machine, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has root in a sandbox can stop its agent. The snapshot says so, and its files are read without the agent."""
    monkeypatch.setattr("sandpit.node.snapshots.snapshotter._ANSWER_SECONDS", 0.5)
    files = changed(box)
    box.sh(HOLD_AGENT)
    wait_for(lambda: not answers(machine, box))
    with pytest.raises(AgentUnresponsive):
        machine.wait(machine.node.announce_snapshot(box.id))
    info = kept.take(box, end=True)
    assert (info.memory, info.responsive) == (True, False)
    assert machine.node.snapshots() == [info]
    again = kept.start(info, box.id, resumed=True, memory=False)
    assert again.sh(CHECK) == files
    assert again.sh("pgrep -fc '[h]old.py' || true") == "0"


def answers(machine: Machine, box: Box) -> bool:
    try:
        machine.wait(machine.node._sandboxes[box.id].agent.unfreeze(0.5))
    except AgentUnavailable:
        return False
    return True


LOAD = r"""
cat > /root/load.py <<'END'
import http.server, sqlite3, threading
database = sqlite3.connect("/root/load.db", isolation_level=None)
database.execute("pragma journal_mode=wal")
database.execute("create table kept (number integer primary key, filler blob)")
committed = 0

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = str(committed).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

threading.Thread(target=http.server.HTTPServer(("127.0.0.1", 8000), Handler).serve_forever, daemon=True).start()
while True:
    database.execute("insert into kept values (?, randomblob(2000))", (committed + 1,))
    committed += 1
END
(setsid python3 /root/load.py > /root/load.log 2>&1 &)
"""
COMMITTED = (
    "for i in $(seq 200); do n=$(curl -s 127.0.0.1:8000); [ ${n:-0} -gt %d ] && break; sleep 0.05; done; echo ${n:-0}"
)
ROWS = """import sqlite3
database = sqlite3.connect("/root/load.db", timeout=30)
print(*database.execute("pragma integrity_check").fetchone(), *database.execute("select count(*), max(number) from kept").fetchone())
"""


@pytest.mark.parametrize("runtime", ["gvisor"])
def test_a_database_and_a_server_under_load(box: Box, kept: Kept, runtime: str) -> None:
    """With its processes it goes on writing; from the file system alone, everything that was committed is there."""
    box.sh(LOAD)
    before = int(box.sh(COMMITTED % 20))
    assert before > 20
    info = kept.take(box, end=True)
    again = kept.start(info, box.id, resumed=True)
    later = int(again.sh(COMMITTED % before))
    assert later > before
    sound, count, last = again.python(ROWS).split()
    assert (sound, count) == ("ok", last)
    assert int(count) >= later
    booted = kept.start(kept.take(again, memory=False, end=True), box.id, resumed=True)
    sound, rows, last = booted.python(ROWS).split()
    assert (sound, rows) == ("ok", last)
    assert int(rows) >= int(count)
