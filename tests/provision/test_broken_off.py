"""`sandpit prepare` that is killed, and called twice at once: the next one makes what is missing, and nothing half-made stays."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from tests.machines import REPOSITORY, cache_dir

from sandpit.provision import builtin
from sandpit.provision.builtin import builtin_images
from sandpit.provision.closure import closure_key

if TYPE_CHECKING:
    from pathlib import Path


def prepare(data_dir: Path) -> subprocess.Popen[str]:
    """In a process group of its own, so that it can be killed with its installers, as by Ctrl-C or a power cut."""
    environment = {**os.environ, "SANDPIT_DATA_DIR": str(data_dir), "PYTHONPATH": str(REPOSITORY / "src")}
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "sandpit.cli", "prepare"], env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


@pytest.fixture
def half_prepared(built_images: None, tmp_path: Path) -> Path:
    """A data directory that has all that takes minutes: layers and downloads."""
    for shared in ("layers", "cache", "bin"):
        (tmp_path / shared).symlink_to(cache_dir() / shared)
    return tmp_path


@pytest.mark.timeout(180)
def test_killed_and_called_twice_at_once(half_prepared: Path) -> None:
    moment = random.SystemRandom().uniform(0.7, 3.0)
    print(f"killed after {moment:.2f} s")
    first = prepare(half_prepared)
    time.sleep(moment)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    for done in [prepare(half_prepared), prepare(half_prepared)]:
        output, _ = done.communicate(timeout=150)
        assert done.returncode == 0, output
    closure = half_prepared / "closure"
    assert {path.name for path in closure.iterdir()} == {".lock", closure_key()}
    assert (closure / closure_key() / "run.py").exists()
    described = {path.parent.name for path in half_prepared.glob("images/*/image.json")}
    assert described == {image.build_id for image in builtin_images()}
    assert list(half_prepared.glob("images/*/*.new")) == []


def test_a_description_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An earlier build loses its names with the next one; a crash meanwhile must not lose the description."""
    newest = builtin_images()[0]
    older = tmp_path / "older/image.json"
    older.parent.mkdir()
    older.write_text(json.dumps({"template_id": newest.template_id, "build_id": "older"}))

    def die(*_: object, **__: object) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(json, "dumps", die)
        with pytest.raises(KeyboardInterrupt):
            builtin._retire_older(tmp_path, newest)
    assert json.loads(older.read_text())["build_id"] == "older"
    inode = older.stat().st_ino
    builtin._retire_older(tmp_path, newest)
    assert json.loads(older.read_text())["retired"] is True
    assert older.stat().st_ino != inode, "replaced, not written over"
