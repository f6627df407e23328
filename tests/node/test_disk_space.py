"""The ledger of room on the disk, on a small file system."""

from __future__ import annotations

import asyncio
import errno
import subprocess
from typing import TYPE_CHECKING

import pytest

from sandpit.contract.errors import DiskFull, NodeError, unwritable
from sandpit.lib.diskspace import Claim, DiskSpace, NoRoom
from sandpit.protocol.changes import Changes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """100 MiB of their own."""
    path = tmp_path / "disk"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "none", str(path)], check=True)
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_a_part_is_kept_unless_the_operator_says_how_much(disk: Path) -> None:
    assert DiskSpace().look(disk).reserve == 5 * MIB
    assert DiskSpace(0).look(disk).left == 100 * MIB
    room = DiskSpace(30).look(disk)
    assert (room.total, room.free, room.promised, room.reserve, room.left) == tuple(
        size * MIB for size in (100, 100, 0, 30, 70)
    )


def test_what_is_claimed_is_taken(disk: Path) -> None:
    """Whoever asks, by whichever object and directory of the file system: until it is written, or given back."""
    space, other = DiskSpace(20), DiskSpace(20)
    (disk / "elsewhere").mkdir()
    with space.claimed(disk, 50 * MIB, "the first") as claim:
        with pytest.raises(NoRoom, match="50 MiB of them promised and 20 MiB kept in reserve, and the second needs 31"):
            other.check(disk / "elsewhere", 31 * MIB, "the second")
        with other.claimed(disk / "elsewhere", 30 * MIB, "the second"):
            with pytest.raises(NoRoom):
                claim.grow(51 * MIB)
            assert claim.outstanding == 50 * MIB
        claim.write(40 * MIB)
        (disk / "file").write_bytes(bytes(40 * MIB))
        assert space.look(disk).left == 30 * MIB
    assert space.look(disk).left == 40 * MIB


def test_a_claim_that_was_too_small_grows_or_ends(disk: Path) -> None:
    space, written = DiskSpace(20), 0

    def write_all(claim: Claim) -> None:
        nonlocal written
        while True:
            claim.write(MIB)
            with (disk / "file").open("ab") as file:
                file.write(bytes(MIB))
            written += 1

    with space.claimed(disk, 0, "a stream") as claim, pytest.raises(NoRoom) as refused:
        write_all(claim)
    assert 60 <= written <= 80
    assert refused.value.errno == errno.ENOSPC
    assert isinstance(unwritable("it failed", refused.value), DiskFull)
    assert type(unwritable("it failed", OSError(errno.EIO, "broken"))) is NodeError


def test_what_writes_without_a_size_is_ended_before_the_disk_is_full(disk: Path) -> None:
    space, ended = DiskSpace(40), False

    async def fill() -> None:
        nonlocal ended
        try:
            for number in range(100):
                (disk / str(number)).write_bytes(bytes(MIB))
                await asyncio.sleep(0.02)
        finally:
            ended = True

    async def quick() -> int:
        return 7

    assert asyncio.run(space.guard([disk], quick(), "a build")) == 7
    with pytest.raises(NoRoom, match="a build"):
        asyncio.run(space.guard([disk], fill(), "a build"))
    assert ended
    assert space.look(disk).free > 20 * MIB


def test_a_tree_of_too_many_names_is_not_collected(tmp_path: Path) -> None:
    """What a step of a build wrote is looked at by the server, where the runtime shows it."""
    for number in range(1000):
        (tmp_path / f"{number:0200}").touch()
    changes = Changes(tmp_path, most_bytes=400_000)
    with pytest.raises(OSError, match="names of all files"):
        changes.look()
    Changes(tmp_path, most_bytes=600_000).look()
    (tmp_path / "/".join(["d"] * 400)).mkdir(parents=True)
    with pytest.raises(OSError, match="directories are in each other"):
        Changes(tmp_path).look()
