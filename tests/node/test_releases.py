"""A sandbox stays with the release of its runtime that it was started with, whatever the next server has."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from typing import TYPE_CHECKING

import pytest
from tests.machines import Box, Machine, cache_dir
from tests.node.conftest import base
from tests.node.test_snapshots import Kept

from sandpit.contract.errors import NodeError
from sandpit.node.runtime.gvisor import Gvisor
from sandpit.node.runtime.releases import GOFER, Releases

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

BUILD = "base-gvisor"
JOB = "echo kept > /root/file; (setsid sleep 1000 > /dev/null 2>&1 &)"
CHECK = "cat /root/file; pgrep -c sleep || true"


@pytest.fixture
def own(built_images: None) -> Iterator[Machine]:
    """A node of its own, started, with a runtime that can be replaced."""
    machine = Machine.make([base("gvisor")])
    binaries = machine.data_dir / "bin"
    binaries.unlink()
    binaries.mkdir()
    shutil.copy(cache_dir() / "bin/runsc", binaries / "runsc")
    machine.start()
    yield machine
    machine.stop()
    machine.remove()


@pytest.fixture
def kept(own: Machine) -> Kept:
    """Goes with its machine."""
    return Kept(own)


def driver_of(machine: Machine) -> Gvisor:
    driver = machine.node._runtimes["gvisor"]
    assert isinstance(driver, Gvisor)
    return driver


def release_of(box: Box) -> str:
    return box.machine.node._sandboxes[box.id].release


def taken_over(box: Box, **record: str | None) -> Box:
    """The sandbox, with another server; in its record, some things are not as they were (None: not there)."""
    machine, path = box.machine, box.directory / "record.json"
    machine.stop(kill_sandboxes=False)
    before = {**json.loads(path.read_text()), **record}
    path.write_text(json.dumps({key: value for key, value in before.items() if value is not None}))
    [found] = machine.start()
    return machine.box(found)


def manifest_of(machine: Machine, snapshot_id: str) -> Path:
    return machine.data_dir / "sandbox-snapshots" / snapshot_id / "manifest.json"


def of_an_older_server(machine: Machine) -> Box:
    """A running sandbox whose sentry opens files by itself, and whose record says nothing of that."""
    driver_of(machine)._direct = True
    box = machine.create(BUILD)
    box.sh(JOB)
    return taken_over(box, release=None)


def test_a_sandbox_of_an_older_server_keeps_its_memory(own: Machine, kept: Kept) -> None:
    box = of_an_older_server(own)
    today = driver_of(own).release()
    assert today.endswith(GOFER)
    assert release_of(box) == today.removesuffix(GOFER)
    assert own.records()[0]["release"] == release_of(box)
    copy = kept.start(kept.take(box), "copy")
    copies = kept.take(copy)
    again = kept.start(kept.take(box, end=True), box.id, resumed=True)
    for one in (copy, kept.start(copies, "second"), again):
        assert one.sh(CHECK) == "kept\n1"
        assert release_of(one) == today.removesuffix(GOFER)
    assert release_of(own.create(BUILD)) == today


def test_a_snapshot_that_names_the_other_way_restores(own: Machine, kept: Kept) -> None:
    """Servers that did not know how a sandbox was started wrote down how they started theirs."""
    info = kept.take(of_an_older_server(own), end=True)
    path = manifest_of(own, info.snapshot_id)
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "release": driver_of(own).release()}))
    with pytest.raises(NodeError, match="runsc restore"):
        kept.start(info, "certain")
    path.write_text(json.dumps({**manifest, "release": driver_of(own).release(), "started_with": False}))
    assert kept.start(info, "copy").sh(CHECK) == "kept\n1"
    assert kept.start(info, "files", memory=False).sh(CHECK) == "kept\n0"


@pytest.mark.parametrize("recorded", [True, False])
def test_a_runtime_that_is_replaced_under_a_sandbox(
    own: Machine, kept: Kept, recorded: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The server goes on with what it started with. The next one runs the new release, and the older one for what needs that."""
    box, before = own.create(BUILD), driver_of(own).release()
    box.sh(JOB)
    binary = own.data_dir / "bin/runsc"
    newer = binary.with_name("newer")
    newer.write_bytes(binary.read_bytes() + b"\0")
    newer.chmod(0o755)
    newer.rename(binary)
    box = kept.start(kept.take(box, end=True), box.id, resumed=True)
    assert box.sh(CHECK) == "kept\n1"
    assert release_of(own.create(BUILD)) == before
    for other in [one for one in own.node._sandboxes if one != box.id]:
        own.wait(own.node.kill(other))
    if not recorded:
        shutil.rmtree(own.data_dir / "releases")
    box = taken_over(box, **({} if recorded else {"release": None}))
    assert driver_of(own).release() != before
    assert release_of(box) == before
    copy = kept.start(kept.take(box), "copy")
    assert box.sh(CHECK) == "kept\n1"
    again = kept.start(kept.take(box, end=True), box.id, resumed=True)
    assert "another release of the runtime took it" in caplog.text
    for one in (copy, again):
        assert one.sh(CHECK) == "kept\n0"
        assert release_of(one) == driver_of(own).release()


def test_a_release_that_was_removed_comes_back_from_its_sandbox(own: Machine, kept: Kept) -> None:
    box = own.create(BUILD)
    box.sh(JOB)
    shutil.rmtree(own.data_dir / "releases")
    own_copy = own.data_dir / "releases/gvisor" / release_of(box).removesuffix(GOFER)
    info = kept.take(box, end=True)
    assert own_copy.is_file()
    assert kept.start(info, box.id, resumed=True).sh(CHECK) == "kept\n1"


def test_without_its_release_a_sandbox_goes_on_and_is_not_paused(own: Machine, kept: Kept) -> None:
    box = own.create(BUILD)
    box.sh(JOB)
    own.node._sandboxes[box.id].release = "0" * 64
    for end in (True, False):
        with pytest.raises(NodeError, match=f"sandbox {box.id} needs the gvisor release 000000000000, which is gone"):
            kept.take(box, end=end)
    assert own.node.snapshots() == []
    assert box.sh(CHECK) == "kept\n1"


def test_a_snapshot_names_its_root_file_system(own: Machine, kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory refers to its files by numbers: one that is made in another way, by a newer server, is another one."""
    box = own.create(BUILD)
    box.sh(JOB)
    info = kept.take(box, end=True)
    path = manifest_of(own, info.snapshot_id)
    manifest = json.loads(path.read_text())
    assert (own.data_dir / "roots" / manifest["root"]).is_file()
    made: list[bool] = []

    async def root(layers: Sequence[Path], store: Path, *, former: bool = False) -> Path:
        made.append(former)
        return store / "another.erofs"

    monkeypatch.setattr(driver_of(own), "root", root)
    assert kept.start(info, "copy").sh(CHECK) == "kept\n1"
    assert made == []
    path.write_text(json.dumps({**manifest, "root": "gone.erofs"}))
    with pytest.raises(NodeError, match=r"needs the root file system gone\.erofs, which is gone"):
        kept.start(info, "other")
    for secret in (manifest["secret"], ""):
        path.write_text(json.dumps({**manifest, "root": "", "secret": secret}))
        with pytest.raises(NodeError):
            kept.start(info, "older", resumed=True)
    assert made == [False, False, True]


def test_the_root_file_systems_of_older_servers_are_found(tmp_path: Path) -> None:
    layer = tmp_path / "layers/abc/fs"
    points = ("proc", "sys", "dev", "tmp", ".disk", ".restore", ".sandpit")
    name = hashlib.sha256("\n".join(["abc", *points]).encode()).hexdigest()[:24] + ".erofs"
    (tmp_path / name).touch()
    driver = Gvisor(tmp_path / "runsc", tmp_path / "state", tmp_path / "releases")
    assert asyncio.run(driver.root([layer], tmp_path, former=True)) == tmp_path / name


def test_kept_releases(tmp_path: Path) -> None:
    """A copy is whole, its own, and there for as long as something needs it in one way or the other."""
    binary, releases = tmp_path / "runsc", Releases(tmp_path / "releases")
    binary.write_bytes(b"first")
    first = releases.keep(binary)
    first.write_bytes(b"cut")  # as a power cut may leave it
    assert Releases(releases.directory).keep(binary).read_bytes() == b"first"
    binary.write_bytes(b"second")
    second = releases.keep(binary)
    assert (first.read_bytes(), second.read_bytes()) == (b"first", b"second")
    assert releases.find(first.name) == releases.find(first.name + GOFER) == first
    assert releases.find("") is releases.find("0" * 64) is None
    second.rename(second.with_name(second.name + GOFER))  # the name that it had at first
    releases.forget([second.name])
    assert list(releases.directory.iterdir()) == [second]
    releases.forget([])
    assert list(releases.directory.iterdir()) == []
