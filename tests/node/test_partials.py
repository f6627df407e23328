"""Files in the making: what a maker that was killed has left goes, mounts included; what is at work stays."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from sandpit.lib import mounts, partials

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")


def left_by_a_killed_maker(store: Path) -> None:
    """A gigabyte in the making, with the overlay that it is made from."""
    pid = os.fork()
    if pid == 0:
        try:
            with partials.making(store, "root") as work:
                for name in ("lower", "other", "merged"):
                    (work / name).mkdir()
                mounts.overlay(work / "merged", [work / "lower", work / "other"])
                (work / "image").write_bytes(bytes(1000))
                os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("linked", [False, True])
def test_sweep(tmp_path: Path, linked: bool) -> None:
    real = tmp_path / "roots"
    real.mkdir()
    (real / "kept.erofs").touch()
    store = real
    if linked:
        store = tmp_path / "link"
        store.symlink_to(real)
    left_by_a_killed_maker(store)
    (real / "of-an-earlier-release.new").touch()
    assert len(list(real.glob("root.*.new"))) == 1
    with partials.making(store, "other") as work:
        partials.sweep(store)
        assert sorted(path.name for path in real.iterdir()) == ["kept.erofs", work.name]
    assert [path.name for path in real.iterdir()] == ["kept.erofs"]
    assert not any(point.startswith(str(tmp_path)) for point in mounts.mount_points())
