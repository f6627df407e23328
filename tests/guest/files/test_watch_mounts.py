"""Which mounts count as remote."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sandpit.guest.agent.files import mounts

if TYPE_CHECKING:
    from pathlib import Path

TABLE = """none / 9p rw 0 0
server:/x /mnt/n nfs4 rw 0 0
none /mnt/n/local tmpfs rw 0 0
none /mnt/with\\040space fuse.sshfs rw 0 0
//server/y /mnt/over cifs rw 0 0
none /mnt/over ext4 rw 0 0
odd line
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", None),
        ("/mnt/n", "nfs4"),
        ("/mnt/n/deep/er", "nfs4"),
        ("/mnt/nothing", None),
        ("/mnt/n/local/x", None),
        ("/mnt/with space", "fuse.sshfs"),
        ("/mnt/over/x", None),
    ],
)
def test_remote_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, kind: str | None) -> None:
    table = tmp_path / "mounts"
    table.write_text(TABLE)
    monkeypatch.setattr(mounts, "_MOUNTS", table)
    assert mounts.remote_type(path) == kind


def test_this_machine() -> None:
    assert mounts.remote_type("/proc") is None
