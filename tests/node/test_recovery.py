"""Sandboxes outlive their server; what a crash leaves half-made is tidied up."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from tests.machines import REPOSITORY, Machine, wait_for
from tests.node.conftest import base

from sandpit.contract.errors import NodeError, UnknownSandbox, UnknownTemplateBuild
from sandpit.contract.node import NetworkPolicy
from sandpit.node.host import cgroups

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.machines import Box

    Create = Callable[..., Box]


@pytest.fixture
def own(built_images: None, runtime: str) -> Iterator[Machine]:
    """A node of its own, started."""
    machine = Machine.make([base(runtime)])
    machine.start()
    yield machine
    machine.stop()
    machine.remove()


def test_sandboxes_go_on_without_their_node(own: Machine) -> None:
    [image] = own.images
    box = own.create(image.build_id, NetworkPolicy(deny_out=("198.51.100.0/24",)))
    box.sh("echo kept > /root/file; (sleep 1000 >/dev/null 2>&1 &)")
    first = box.first_process
    own.stop(kill_sandboxes=False)
    [found] = own.start()
    assert found.sandbox_id == box.id
    assert found.address == box.info.address
    again = own.box(found)
    assert again.first_process == first
    assert again.sh("cat /root/file; pgrep -c sleep") == "kept\n1"
    assert own.node._sandboxes[box.id].policy == NetworkPolicy(deny_out=("198.51.100.0/24",))
    other = own.create(image.build_id)
    assert other.info.address != again.info.address
    assert other.sh("echo on") == "on"


def test_sandboxes_that_died_meanwhile_are_tidied(own: Machine) -> None:
    [image] = own.images
    box = own.create(image.build_id)
    processes = box.processes
    own.stop(kill_sandboxes=False)
    for pid in processes:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    assert own.start() == []
    assert list((own.data_dir / "sandboxes").iterdir()) == []


@pytest.mark.parametrize(
    "record", [None, "", "{", "{}", "[]", '{"container_id": "x", "surprise": 1}', '"text"', "\x00\x01"]
)
def test_unusable_records_are_tidied(own: Machine, record: str | None) -> None:
    own.stop()
    directory = own.data_dir / "sandboxes/c0123456789abcdef"
    (directory / "bundle/disk").mkdir(parents=True)
    if record is not None:
        (directory / "record.json").write_text(record)
    assert own.start() == []
    assert not directory.exists()


def test_a_record_that_lost_its_process_leaves_nothing_running(own: Machine) -> None:
    """A crash between the start of a container and the second write of its record."""
    [image] = own.images
    box = own.create(image.build_id)
    directory, processes = box.directory, box.processes
    own.stop(kill_sandboxes=False)
    record = json.loads((directory / "record.json").read_text())
    (directory / "record.json").write_text(json.dumps({**record, "pid": None, "start_ticks": None, "sandbox_id": None}))
    assert own.start() == []
    assert not directory.exists()
    wait_for(lambda: not any(_runs(pid) for pid in processes))


def test_a_pid_that_belongs_to_another_process_now_is_left_alone(own: Machine) -> None:
    [image] = own.images
    own.stop()
    directory = own.data_dir / "sandboxes/c0123456789abcdef"
    directory.mkdir()
    record = {"container_id": directory.name, "build_id": image.build_id, "runtime": image.runtime, "slot": 1}
    record |= {"pid": os.getpid(), "start_ticks": 1, "sandbox_id": "old"}
    (directory / "record.json").write_text(json.dumps(record))
    assert own.start() == []
    assert not directory.exists()


@pytest.mark.parametrize("nested", [False, True])
def test_a_process_that_was_left_in_a_group(own: Machine, nested: bool) -> None:
    """In whatever hierarchy it is, and however deep, it goes."""
    own.stop()
    directory = own.data_dir / "sandboxes/c0123456789abcdef"
    directory.mkdir()
    memory = cgroups.ROOT if cgroups.is_unified() else cgroups.ROOT / "memory"
    group = memory / own.name / directory.name / ("inner" if nested else "")
    group.mkdir(parents=True)
    sleeper = subprocess.Popen(["sleep", "1000"])
    try:
        (group / "cgroup.procs").write_text(str(sleeper.pid))
        assert own.start() == []
        assert sleeper.wait(10) == -signal.SIGKILL
        assert not directory.exists()
        assert not group.exists()
    finally:
        sleeper.kill()
        sleeper.wait()


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_killing_a_sandbox_from_outside_is_told(create: Create, machine: Machine) -> None:
    box, neighbour = create(), create()
    directory = box.directory
    os.kill(box.first_process, signal.SIGKILL)
    wait_for(lambda: box.id in machine.gone)
    assert machine.gone[box.id] == "its first process ended"
    wait_for(lambda: not directory.exists())
    with pytest.raises(UnknownSandbox):
        box.kill()
    with pytest.raises(UnknownSandbox):
        box.metrics()
    assert neighbour.sh("echo on") == "on"


def test_a_sandbox_whose_first_process_is_killed_inside(create: Create, machine: Machine) -> None:
    """PID 1 ignores signals from inside, as the init process of Linux does; gVisor lets root kill it, which ends that sandbox alone."""
    box = create()
    box.run("for name in TERM INT HUP QUIT USR1 USR2; do kill -$name 1; done; sleep 0.2")
    assert box.sh("echo on") == "on"
    inherited = "import signal; print({signal.getsignal(n) for n in (1, 2, 3, 10, 12, 15)})"
    assert box.sh(f"exec python3 -c '{inherited}'").count("SIG_IGN") == 0
    with contextlib.suppress(NodeError):
        box.run("kill -KILL 1; sleep 0.2")
        assert box.sh("echo on") == "on"
        return
    wait_for(lambda: box.id in machine.gone)


def test_unknown_builds(machine: Machine) -> None:
    for build in ("nothing", "", "../base", "a" * 65, "A/B"):
        with pytest.raises(UnknownTemplateBuild):
            machine.create(build)


def test_a_missing_layer_is_named(machine: Machine, runtime: str) -> None:
    machine.add(base(runtime, build_id=f"broken-{runtime}", layers=("0" * 32,)))
    with pytest.raises(NodeError, match=r"layer 0+ .* is missing"):
        machine.create(f"broken-{runtime}")


@pytest.fixture
def snapshot_owner(built_images: None) -> Iterator[Machine]:
    machine = Machine.make([base("gvisor")])
    machine.start()
    yield machine
    machine.stop()
    machine.remove()


@pytest.mark.parametrize("damage", ["truncated", "empty directory", "flipped", "half-written"])
def test_damaged_snapshots_cost_time_only(
    snapshot_owner: Machine, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    machine = snapshot_owner
    machine.create("base-gvisor").kill()
    [snapshot] = (path for path in (machine.data_dir / "snapshots/base-gvisor").iterdir() if path.is_dir())
    for path in snapshot.iterdir():
        if path.name == "manifest.json":
            if damage == "half-written":
                path.unlink()
        elif damage == "truncated":
            os.truncate(path, path.stat().st_size // 2)
        elif damage == "empty directory":
            path.unlink()
        elif damage == "flipped":
            content = path.read_bytes()
            path.write_bytes(bytes(255 - byte for byte in content[:4096]) + content[4096:])
    if damage == "half-written":
        machine.stop()
        machine.start()
    box = machine.create("base-gvisor")
    assert box.sh("echo on") == "on"
    assert box.sh("hostname") == box.id
    if damage != "half-written":
        assert any("does not restore" in record.message for record in caplog.records)


def test_a_snapshot_that_somebody_replaced(snapshot_owner: Machine, tmp_path: Path) -> None:
    """Its agent knows the secret that came with its files, not the one that was read with those before."""
    machine, folder = snapshot_owner, snapshot_owner.data_dir / "snapshots/base-gvisor"
    machine.create("base-gvisor").kill()
    shutil.copytree(folder, tmp_path / "kept")
    shutil.rmtree(folder)
    for _ in range(2):  # boots, and has another one taken
        machine.create("base-gvisor").kill()
    [kept], [now] = (tmp_path / "kept").glob("*/secret"), folder.glob("*/secret")
    assert kept.read_text() != now.read_text()
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "kept", folder)
    assert machine.create("base-gvisor").sh("echo on") == "on"


def test_a_removed_snapshot_directory(snapshot_owner: Machine) -> None:
    machine = snapshot_owner
    machine.create("base-gvisor").kill()
    shutil.rmtree(machine.data_dir / "snapshots/base-gvisor")
    assert machine.create("base-gvisor").sh("echo on") == "on"


_KILLED_WITH_A_NEW_NAMESPACE = """
import os, signal
from pathlib import Path
from sandpit.lib import mounts

Path.write_text = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
mounts._user_namespace("0 0 1")
"""


def test_a_new_user_namespace_does_not_outlive_its_maker() -> None:
    """The process that holds it has the server's lock and ports too."""
    command = [sys.executable, "-c", _KILLED_WITH_A_NEW_NAMESPACE]
    # Ends when nobody has the output any more.
    done = subprocess.run(command, env={"PYTHONPATH": str(REPOSITORY / "src")}, stdout=subprocess.PIPE, timeout=20)
    assert done.returncode == -signal.SIGKILL
