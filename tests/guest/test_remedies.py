"""What a sandbox's first step finds out about its kernel, tried on this machine's, which has no faults."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from sandpit.guest.stage1 import remedies

if TYPE_CHECKING:
    from pathlib import Path


def test_this_kernel_needs_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    remedies.spare_text()
    assert resource.getrlimit(resource.RLIMIT_MEMLOCK) == before
    monkeypatch.setattr(remedies, "LIBRARY", sys.executable)
    assert not remedies.correct_close_range(tmp_path / "layer")
    assert list(tmp_path.iterdir()) == []


def test_the_trial_leaves_no_handler() -> None:
    """A real fault ends the process as before; in one of its own, since it dies of it."""
    source = "from sandpit.guest.stage1 import remedies; import ctypes; remedies.spare_text(); ctypes.string_at(8)"
    done = subprocess.run([sys.executable, "-c", source], env={**os.environ, "PYTHONPATH": "src"}, check=False)
    assert done.returncode == -11


@pytest.mark.parametrize(
    ("own", "merged"),
    [
        (None, "LIBRARY\n"),
        ("", "LIBRARY\n"),
        ("/usr/lib/one.so /usr/lib/two.so", "/usr/lib/one.so /usr/lib/two.so\nLIBRARY\n"),
        ("/usr/lib/one.so\n", "/usr/lib/one.so\nLIBRARY\n"),
        ("/usr/lib/one.so\nLIBRARY\n", "/usr/lib/one.so\nLIBRARY\n"),
    ],
)
def test_an_images_own_list_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str | None, merged: str
) -> None:
    path = tmp_path / "ld.so.preload"
    monkeypatch.setattr(remedies, "PRELOAD", path)
    if own is not None:
        path.write_text(own.replace("LIBRARY", remedies.LIBRARY))
    assert remedies._named_libraries().decode() == merged.replace("LIBRARY", remedies.LIBRARY)
