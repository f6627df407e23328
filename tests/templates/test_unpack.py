"""Layers that strangers made: what they become, and what is refused."""

from __future__ import annotations

import asyncio
import gzip
import io
import os
import stat
import tarfile
from typing import TYPE_CHECKING

import pytest
from tests.templates.registry import Entry, directory, layer

from sandpit.templates.layers.unpack import Limits
from sandpit.templates.layers.unpacking import UnpackFailed, unpack

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners and devices need root")
LIMITS = Limits(bytes=10 << 20, entries=1000)
OPAQUE = "trusted.overlay.opaque"


class Stack:
    """Layers on top of each other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.layers: list[Path] = []

    def add(self, content: bytes, limits: Limits = LIMITS) -> Path:
        archive, target = self.folder / "archive", self.folder / f"layer{len(self.layers)}"
        archive.write_bytes(content)
        target.mkdir()
        asyncio.run(unpack(archive, target, self.layers, limits))
        self.layers.append(target)
        return target

    def refused(self, content: bytes, limits: Limits = LIMITS) -> str:
        with pytest.raises(UnpackFailed) as caught:
            self.add(content, limits)
        return str(caught.value)


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    (tmp_path / "stack").mkdir()
    return Stack(tmp_path / "stack")


def test_kinds_of_files(stack: Stack) -> None:
    capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0".decode("latin-1")
    content = layer(
        directory("usr/"),
        directory("usr/bin", mode=0o2775, uid=7, gid=8),
        Entry(
            "usr/bin/su",
            b"program",
            mode=0o4755,
            pax={"SCHILY.xattr.user.note": "x", "SCHILY.xattr.security.capability": capability},
        ),
        Entry("usr/bin/link", type=tarfile.LNKTYPE, link="usr/bin/su"),
        Entry("./etc/passwd", b"root", uid=65534, gid=4_000_000_000),
        Entry("absolute", type=tarfile.SYMTYPE, link="/etc/passwd"),
        Entry("escaping", type=tarfile.SYMTYPE, link="../../../../etc/shadow"),
        Entry("pipe", type=tarfile.FIFOTYPE, mode=0o600),
        Entry("dev/null", type=tarfile.CHRTYPE, device=(1, 3)),
    )
    fs = stack.add(gzip.compress(content))
    su = (fs / "usr/bin/su").lstat()
    assert (stat.S_IMODE(su.st_mode), su.st_nlink, su.st_ino) == (0o4755, 2, (fs / "usr/bin/link").lstat().st_ino)
    assert os.getxattr(fs / "usr/bin/su", "user.note") == b"x"
    assert os.getxattr(fs / "usr/bin/su", "security.capability") == capability.encode()
    folder = (fs / "usr/bin").lstat()
    assert (stat.S_IMODE(folder.st_mode), folder.st_uid, folder.st_gid) == (0o2775, 7, 8)
    assert ((fs / "etc/passwd").lstat().st_uid, (fs / "etc/passwd").lstat().st_gid) == (65534, 4_000_000_000)
    assert os.readlink(fs / "absolute") == "/etc/passwd"
    assert os.readlink(fs / "escaping") == "../../../../etc/shadow"
    assert stat.S_ISFIFO((fs / "pipe").lstat().st_mode)
    assert os.listdir(fs / "dev") == []


def test_sparse_files(stack: Stack, tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(5 << 20)
        file.seek(3 << 20)
        file.write(b"here")
    os.system(f"tar -C {tmp_path} --sparse -cf {tmp_path}/sparse.tar sparse")
    fs = stack.add((tmp_path / "sparse.tar").read_bytes())
    found = (fs / "sparse").read_bytes()
    assert (len(found), found.index(b"here"), found.count(b"\0")) == (5 << 20, 3 << 20, (5 << 20) - 4)
    assert (fs / "sparse").stat().st_blocks * 512 < 1 << 20


def test_layers_on_layers(stack: Stack) -> None:
    stack.add(
        layer(
            directory("srv", mode=0o1777, uid=5), directory("srv/old"), Entry("srv/old/a", b"a"), Entry("srv/b", b"b"),
            Entry("srv/program", b"shared", mode=0o755, uid=9), Entry("srv/target", b"low"),
        )
    )  # fmt: skip
    fs = stack.add(
        layer(
            Entry("srv/.wh.b"), directory("srv/old"), Entry("srv/old/.wh..wh..opq"), Entry("srv/old/c", b"c"),
            Entry("srv/again", type=tarfile.LNKTYPE, link="srv/program"),
        )
    )  # fmt: skip
    hidden = (fs / "srv/b").lstat()
    assert stat.S_ISCHR(hidden.st_mode)
    assert hidden.st_rdev == 0
    assert os.getxattr(fs / "srv/old", OPAQUE) == b"y"
    assert (fs / "srv/old/c").read_bytes() == b"c"
    # The layer says nothing about `srv` itself: it stays what it was.
    assert (stat.S_IMODE((fs / "srv").stat().st_mode), (fs / "srv").stat().st_uid) == (0o1777, 5)
    again = (fs / "srv/again").lstat()
    assert ((fs / "srv/again").read_bytes(), again.st_uid, again.st_nlink) == (b"shared", 9, 2)


def test_whiteouts_of_nothing_are_left_out(stack: Stack) -> None:
    """Linux would list them: gVisor's overlay leaves one behind every rename."""
    stack.add(
        layer(directory("low"), Entry("low/a", b"a"), directory("gone"), Entry("gone/a", b"a"), Entry("file", b""))
    )
    stack.add(layer(Entry(".wh.gone"), directory("low"), Entry("low/b", b"b")))
    fs = stack.add(
        layer(
            Entry("low/.wh.a"), Entry("low/.wh.b"), Entry("low/.wh.c"), Entry(".wh.nothing"),
            directory("new"), Entry("new/.wh.x"), Entry("new/y", b"y"),
            directory("gone"), Entry("gone/.wh.a"), Entry("gone/z", b"z"),
            directory("file"), Entry("file/.wh.x"),
        )
    )  # fmt: skip
    found = {str(path.relative_to(fs)) for path in fs.rglob("*") if stat.S_ISCHR(path.lstat().st_mode)}
    assert found == {"low/a", "low/b"}
    sealed = stack.add(layer(Entry("low/.wh.a"), Entry("low/.wh.b"), Entry("low/.wh..wh..opq"), Entry("low/d", b"d")))
    assert os.listdir(sealed / "low") == ["d"]
    above = stack.add(layer(Entry("low/.wh.a"), Entry("low/.wh.d")))
    assert os.listdir(above / "low") == ["d"]


def test_nothing_is_written_outside(stack: Stack, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("before")
    before = set(os.listdir(tmp_path))
    assert "leads out" in stack.refused(layer(Entry("../outside/new", b"x")))
    stack.layers.clear()
    stack.folder = tmp_path / "second"
    stack.folder.mkdir()
    fs = stack.add(
        layer(
            Entry("way", type=tarfile.SYMTYPE, link=str(outside)), Entry("way/new", b"x"),
            Entry("file", type=tarfile.SYMTYPE, link=str(outside / "file")), Entry("file", b"x"),
            Entry("/etc/absolute", b"x"), Entry("up", type=tarfile.SYMTYPE, link="../../.."), Entry("up/new", b"x"),
        )
    )  # fmt: skip
    assert (outside / "file").read_text() == "before"
    assert os.listdir(outside) == ["file"]
    assert set(os.listdir(tmp_path)) == before | {"second"}
    assert (fs / "etc/absolute").read_bytes() == b"x"
    assert not (fs / "file").is_symlink()


def header_bomb() -> bytes:
    """An extended header of 3 GB, of which nothing is there."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 3 << 30
    return info.tobuf(tarfile.USTAR_FORMAT) + bytes(10240)


def deep_by_links() -> bytes:
    """No path is long, but each link leads to where the one before ended."""
    entries, place = [], ""
    for number in range(4):
        entries += [
            directory(f"{place}{'d/' * 100}"),
            Entry(f"l{number}", type=tarfile.SYMTYPE, link=f"{place}{'d/' * 100}"),
        ]
        place = f"l{number}/"
    return layer(*entries)


def link_to_below() -> bytes:
    return layer(Entry("etc/copy", type=tarfile.LNKTYPE, link="etc/shadow"))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (layer(Entry("sda", type=tarfile.BLKTYPE, device=(8, 0))), "the device /sda"),
        (layer(Entry("hidden", type=tarfile.CHRTYPE, device=(0, 0))), "the device /hidden"),
        (layer(Entry("a/../../b", b"")), "leads out"),
        (layer(Entry("link", type=tarfile.LNKTYPE, link="../etc/shadow")), "leads out"),
        (link_to_below(), "not there"),
        (layer(Entry("d/" * 300 + "f")), "is no path"),
        (deep_by_links(), "directories in each other"),
        (layer(Entry("big", bytes(11 << 20))), "10 MiB"),
        (layer(*(Entry(f"f{number}") for number in range(1001))), "more than 1000 files"),
        (layer(Entry(".wh..", b"")), "whiteout"),
        (b"no archive at all" * 100, ""),
        (gzip.compress(layer(Entry("cut", os.urandom(5000))))[:2000], ""),
        (header_bomb(), ""),
    ],
    ids=[
        "device", "whiteout", "out", "link-out", "link-below", "deep", "deep-links", "size", "count", "nameless", "noise", "cut", "header",
    ],
)  # fmt: skip
def test_refused(stack: Stack, content: bytes, why: str) -> None:
    assert why in stack.refused(content)


def test_what_follows_the_end_is_not_of_the_archive(stack: Stack) -> None:
    fs = stack.add(gzip.compress(bytes(40 << 20)) + gzip.compress(layer(Entry("late", b""))))
    assert os.listdir(fs) == []


def test_attributes_for_the_hosts_overlay_are_left_out(stack: Stack) -> None:
    pax = {
        f"SCHILY.xattr.{name}": "y" for name in (OPAQUE, "trusted.overlay.redirect", "security.selinux", "user.kept")
    }
    fs = stack.add(layer(directory("d", pax=pax), Entry("f", b"", pax=pax)))
    for name in ("d", "f"):
        assert [key for key in os.listxattr(fs / name) if not key.startswith("security.selinux")] == ["user.kept"]


def test_endless_zeros_end(stack: Stack) -> None:
    """A gigabyte of a file that says it is small: the archive is cut off, not the disk filled."""
    info = tarfile.TarInfo("zeros")
    info.size = 1 << 30
    stream = io.BytesIO()
    with gzip.GzipFile(fileobj=stream, mode="wb", compresslevel=1) as file:
        file.write(info.tobuf())
        for _ in range(64):
            file.write(bytes(1 << 20))
    assert "10 MiB" in stack.refused(stream.getvalue())
