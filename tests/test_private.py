"""State on disk is its owner's alone, also what was open before."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from sandpit.lib.private import contents, guarded, passable, private


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_directory_that_was_open_is_closed(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for name in ("images/one", "tls/example", "build/tmp"):
        (data / name).mkdir(parents=True)
    for name, mode in {"server.log": 0o644, "images/one/image.json": 0o666, "tls/example/ca.pem": 0o666,
                       "tls/example/ca.key": 0o644}.items():  # fmt: skip
        (data / name).touch()
        (data / name).chmod(mode)
    for path in (data, *data.iterdir()):
        if path.is_dir():
            path.chmod(0o777)
    (data / "gone").symlink_to(tmp_path / "nowhere")
    guarded(data)
    assert {name: _mode(data / name) for name in ("", "images", "tls", "build", "server.log")} == {
        "": 0o711, "images": 0o700, "tls": 0o711, "build": 0o711, "server.log": 0o600,
    }  # fmt: skip
    assert (_mode(data / "tls/example/ca.pem"), _mode(data / "tls/example/ca.key")) == (0o644, 0o600)


def test_what_is_stricter_stays(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    guarded(data)
    assert _mode(data) == 0o700


def test_modes_hold_under_any_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        guarded(tmp_path / "new")
        passable(tmp_path / "new/stage")
        with contents():
            (tmp_path / "seen").touch()
        (tmp_path / "hidden").touch()
        os.umask(0)
        private(tmp_path / "new/images")
    finally:
        os.umask(before)
    assert [_mode(tmp_path / name) for name in ("new", "new/stage", "new/images", "seen", "hidden")] == [
        0o711, 0o711, 0o700, 0o644, 0o600,
    ]  # fmt: skip
