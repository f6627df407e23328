"""A full disk for the data directory: clear errors, no lost record, and all is well once there is room again."""

from __future__ import annotations

import subprocess
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import httpx
import pytest
from tests.abuse.front import FrontBox
from tests.abuse.test_crashes import listed, records, wait_for
from tests.live import Live

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(120)


class SmallDisk(Live):
    """A server whose data directory is a file system of its own, of 64 MiB. Layers and snapshots are elsewhere, as ever."""

    megabytes = 64

    def mount(self) -> None:
        """Move what is in the directory so far into the new file system."""
        options = f"size={self.megabytes}m,mode=711"
        aside = self.data_dir.with_name("aside")
        self.data_dir.rename(aside)
        self.data_dir.mkdir(mode=0o711)
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(self.data_dir)], check=True)
        subprocess.run(["cp", "-a", f"{aside}/.", str(self.data_dir)], check=True)

    def remove(self) -> None:
        subprocess.run(["umount", str(self.data_dir)], check=True)
        super().remove()

    @property
    def filler(self) -> Path:
        return self.data_dir / "filler"

    def fill(self) -> None:
        """Leave not one block."""
        with self.filler.open("ab", buffering=0) as file:
            for size in (1 << 20, 4096, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    continue


@pytest.fixture
def own(built_images: None) -> Iterator[SmallDisk]:
    server = SmallDisk({"SANDPIT_POOL__SIZE": "0"})
    server.mount()
    server.start()
    yield server
    server.filler.unlink(missing_ok=True)
    server.stop()
    server.remove()


def test_a_full_disk(own: SmallDisk) -> None:
    kept, ended = FrontBox.create(own, timeout=600), FrontBox.create(own, timeout=600)
    before = own.api.get(f"/sandboxes/{kept.id}").json()
    own.fill()

    refused = own.api.post("/v2/sandboxes", json={"templateID": "base"})
    assert refused.status_code == 507
    assert "No space left on device" in refused.json()["message"]
    for path, body in (("timeout", {"timeout": 60}), ("connect", {"timeout": 900})):
        answer = own.api.post(f"/sandboxes/{kept.id}/{path}", json=body)
        assert answer.status_code == 500
        assert "disk is full" in answer.json()["message"]
    changed = own.api.put(f"/sandboxes/{kept.id}/network", json={"denyOut": ["0.0.0.0/0"]})
    assert changed.status_code == 507
    assert "No space left on device" in changed.json()["message"]
    assert kept.alive()
    assert own.api.get(f"/sandboxes/{kept.id}").json() == before
    assert listed(own) == set(records(own)) == {kept.id, ended.id}
    answer = own.api.delete(f"/sandboxes/{ended.id}")
    assert answer.status_code in (204, 500), answer.text  # its end frees some room, maybe soon enough
    with ended.http() as http:
        assert http.get("/health").status_code == 502

    own.filler.unlink()
    wait_for(lambda: listed(own) == set(records(own)) == {kept.id})
    assert kept.alive()
    later = FrontBox.create(own, timeout=600)
    assert later.alive()
    assert own.api.post(f"/sandboxes/{kept.id}/timeout", json={"timeout": 900}).status_code == 204


def test_a_server_that_starts_on_a_full_disk(own: SmallDisk) -> None:
    kept = FrontBox.create(own, timeout=600)
    own.kill()
    own.fill()
    own.start()
    assert listed(own) == {kept.id}
    assert kept.alive()
    own.filler.unlink()
    assert FrontBox.create(own, timeout=600).alive()


def test_a_sandbox_on_a_full_disk(own: SmallDisk) -> None:
    """What it writes cannot be stored any more: it may fail, the server and its records may not."""
    writer, neighbour = FrontBox.create(own, timeout=600), FrontBox.create(own, timeout=600)
    with suppress(AssertionError, httpx.TransportError):  # the stream may end in any way
        writer.run("head -c 200000000 /dev/urandom > /big; sync")
    time.sleep(1)
    assert own.api.get(f"/sandboxes/{neighbour.id}").status_code == 200
    assert neighbour.alive()
    assert own.api.delete(f"/sandboxes/{writer.id}").status_code in (204, 404, 500)
    wait_for(lambda: listed(own) == set(records(own)) == {neighbour.id})
    later = FrontBox.create(own, timeout=600)
    assert later.alive()


class SmallSnapshots(Live):
    """A server whose snapshots of sandboxes lie on a file system of their own, too small for one."""

    def mount(self) -> None:
        self.snapshots.mkdir(mode=0o700)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=700", "none", str(self.snapshots)], check=True)

    def remove(self) -> None:
        subprocess.run(["umount", str(self.snapshots)], check=True)
        super().remove()

    @property
    def snapshots(self) -> Path:
        return self.data_dir / "sandbox-snapshots"


def test_a_pause_that_does_not_fit(built_images: None) -> None:
    """It is refused, the sandbox goes on; the same when its time is over."""
    own = SmallSnapshots({"SANDPIT_POOL__SIZE": "0"})
    own.mount()
    own.start()
    try:
        box = FrontBox.create(own, timeout=600, autoPause=True)
        box.sh("(setsid sleep 1000 > /dev/null 2>&1 &)")
        for what in ("pause", "snapshots", "fork"):
            answer = own.api.post(f"/sandboxes/{box.id}/{what}", json={})
            assert answer.status_code == 507, answer.text
            assert "no space left on device" in answer.json()["message"].lower()
            assert box.sh("pgrep -c sleep") == "1"
            assert list(own.snapshots.iterdir()) == []
        assert own.api.post(f"/sandboxes/{box.id}/timeout", json={"timeout": 1}).status_code == 204
        wait_for(lambda: "could not be paused at its timeout" in own.words())
        time.sleep(0.5)
        assert own.log.read_text().count("could not be paused at its timeout") == 1, "it is held over and over"
        assert own.api.get(f"/sandboxes/{box.id}").json()["state"] == "running"
        assert box.sh("pgrep -c sleep") == "1"
        assert list(own.snapshots.iterdir()) == []
    finally:
        own.stop()
        own.remove()
