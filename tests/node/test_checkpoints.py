"""A checkpoint that its runtime has not written to the end is never taken for one, whatever the exit status says."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from tests.node.conftest import base

from sandpit.contract.errors import NodeError
from sandpit.node.runtime import gvisor_checkpoint
from sandpit.node.runtime.gvisor_checkpoint import METADATA, PAGES, STATE, Damaged

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.machines import Box, Machine

pytestmark = pytest.mark.parametrize("runtime", ["gvisor"])
CUTTING = r"""#!/bin/sh
# The real runtime, on a disk that is full a little before its end: it says that all went well.
%s "$@" || exit
case " $* " in *" checkpoint "*)
    while [ "$1" != --image-path ]; do shift; done
    truncate -s %s "$2/%s"
esac
"""
SCATTERED = """
import mmap, os, time
memory = mmap.mmap(-1, 64 << 20)
for page in range(0, len(memory), 8192):
    memory[page] = 1
open('/tmp/scattered', 'w').close()
time.sleep(1000)
"""


@pytest.fixture
def taken(machine: Machine, box: Box) -> Iterator[Path]:
    """The directory of a snapshot."""
    machine.wait(machine.node.snapshot(box.id, "whole", memory=True, end=False))
    yield machine.data_dir / "sandbox-snapshots/whole"
    machine.wait(machine.node.remove_snapshot("whole"))


@pytest.mark.parametrize(
    ("file", "cut"),
    # Elsewhere in the state file the runtime notices: it writes that step by step, and the host's errors are its exit status.
    [*((file, cut) for file in (PAGES, METADATA) for cut in ("-1", "-4096", "0")), (STATE, "0")],
)
def test_a_cut_checkpoint_is_refused(
    machine: Machine, box: Box, tmp_path: Path, cut: str, file: str, monkeypatch: pytest.MonkeyPatch, runtime: str
) -> None:
    """The sandbox goes on, and there is no snapshot; a template has none either."""
    driver = machine.node._runtimes["gvisor"]
    cutting = tmp_path / "runsc"
    cutting.write_text(CUTTING % (driver._kept, cut, file))  # type: ignore[attr-defined]
    cutting.chmod(0o755)
    command = (str(cutting), *driver._runsc()[1:])  # type: ignore[attr-defined]
    monkeypatch.setattr(driver, "_runsc", lambda: command)
    with pytest.raises(NodeError, match="has not written all of the checkpoint"):
        machine.wait(machine.node.snapshot(box.id, "cut", memory=True, end=True))
    assert machine.node.snapshots() == []
    assert box.sh("echo on") == "on"


def test_a_cut_snapshot_of_a_template_is_not_kept(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: str
) -> None:
    driver = machine.node._runtimes["gvisor"]
    cutting = tmp_path / "runsc"
    cutting.write_text(CUTTING % (driver._kept, "-4096", PAGES))  # type: ignore[attr-defined]
    cutting.chmod(0o755)
    machine.add(base(runtime, build_id="cut-template"))
    with monkeypatch.context() as patched:
        command = (str(cutting), *driver._runsc()[1:])  # type: ignore[attr-defined]
        patched.setattr(driver, "_runsc", lambda: command)
        with pytest.raises(NodeError, match="has not written all of the checkpoint"):
            machine.create("cut-template")
    assert not list((machine.data_dir / "snapshots/cut-template").glob("*/manifest.json"))
    box = machine.create("cut-template")
    assert box.sh("echo on") == "on"
    box.kill()


def test_every_cut_of_the_metadata_is_noticed(taken: Path, tmp_path: Path, runtime: str) -> None:
    metadata = (taken / METADATA).read_bytes()
    whole = gvisor_checkpoint.pages_bytes(metadata)
    assert whole == (taken / PAGES).stat().st_size
    for size in range(0, len(metadata), 5):
        try:
            assert gvisor_checkpoint.pages_bytes(metadata[:size]) < whole
        except Damaged:
            continue
    for name in (STATE, METADATA, PAGES):
        shutil.copy(taken / name, tmp_path)
    gvisor_checkpoint.verify(tmp_path)
    (tmp_path / PAGES).unlink()
    with pytest.raises(OSError, match=PAGES):
        gvisor_checkpoint.verify(tmp_path)


def test_memory_in_many_pieces(machine: Machine, box: Box, runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A description that is long is read by a process of its own."""
    monkeypatch.setattr(gvisor_checkpoint, "_SHORT_BYTES", 64 << 10)
    box.sh(
        f"cat > /root/scattered.py <<'END'\n{SCATTERED}\nEND\n(setsid python3 /root/scattered.py > /dev/null 2>&1 &)"
    )
    box.sh("until [ -e /tmp/scattered ]; do sleep 0.1; done")
    machine.wait(machine.node.snapshot(box.id, "scattered", memory=True, end=False))
    taken = machine.data_dir / "sandbox-snapshots/scattered"
    try:
        assert (taken / METADATA).stat().st_size > gvisor_checkpoint._SHORT_BYTES
        gvisor_checkpoint.verify(taken)
    finally:
        machine.wait(machine.node.remove_snapshot("scattered"))
