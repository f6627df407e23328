"""Putting a sandbox away and bringing it back, by how much memory it has written to, and forks of it."""

from __future__ import annotations

import shutil
import subprocess
import time
from typing import TYPE_CHECKING

import e2b
from tests.machines import cache_dir

from benchmarks.bare import Bare
from benchmarks.rig import Rig, rig
from benchmarks.series import Clock, Measurement, Target
from sandpit.node.runtime.gvisor import FLAGS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.subjects import Scale

NAME = "pause"
_SIZES_MB = (16, 64, 256, 1024)
_HOLDER = "import os, time; held = os.urandom({size} << 20); open('/tmp/held', 'w').close(); time.sleep(3600)"


def measure(scale: Scale) -> Iterator[Measurement]:
    sizes = _SIZES_MB[:2] if scale.quick else _SIZES_MB
    with rig(pool=0, SANDPIT_LIMITS__MEMORY_MB="2048") as made:
        bare = Bare(made)
        for size in sizes:
            yield from _of_size(made, bare, size, scale.runs(10, 2))


def _of_size(made: Rig, bare: Bare, size: int, runs: int) -> Iterator[Measurement]:
    sandbox = e2b.Sandbox.create("base", timeout=3600)
    sandbox.commands.run(f'python3 -c "{_HOLDER.format(size=size)}"', background=True, timeout=0)
    while not sandbox.files.exists("/tmp/held"):
        time.sleep(0.1)
    pauses, resumes, forks, written, restored = Clock(), Clock(), Clock(), [], []
    for _ in range(runs):
        made.settle()
        written.append(_checkpoint(made, sandbox.sandbox_id))
        made.settle()
        pauses.time(sandbox.pause)
        made.settle()
        restored.append(bare.restore(made.live.data_dir / "sandbox-snapshots" / sandbox.sandbox_id))
        made.settle()
        resumes.time(lambda: _resume(sandbox))
    for _ in range(max(1, runs // 2)):
        made.settle()
        forked: list[e2b.Sandbox] = []
        forks.time(lambda got=forked: got.extend(sandbox.fork()))  # type: ignore[misc]
        for one in forked:
            one.kill()
    sandbox.kill()
    bounds = (Target("p50", 150),) if size == 64 else ()
    yield Measurement(f"pause, {size} MiB written", "ms", pauses.values, "runsc checkpoint", written, bounds)
    yield Measurement(f"resume to first answer, {size} MiB", "ms", resumes.values, "runsc restore", restored, bounds)
    yield Measurement(f"fork, {size} MiB", "ms", forks.values)


def _resume(sandbox: e2b.Sandbox) -> None:
    sandbox.connect(timeout=3600)
    assert sandbox.is_running()


def _checkpoint(made: Rig, sandbox_id: str) -> float:
    """Milliseconds of a checkpoint by hand; the sandbox goes on."""
    image = made.live.data_dir.parent / "checkpoint"
    image.mkdir()
    command = [str(cache_dir() / "bin/runsc"), "--root", str(made.live.run_dir / "runsc"), *FLAGS, "checkpoint"]
    command += ["--compression=none", "--exclude-committed-zero-pages", "--leave-running", "--image-path", str(image)]
    began = time.perf_counter()
    subprocess.run(
        [*command, made.record(sandbox_id)["container_id"]], stdin=subprocess.DEVNULL, capture_output=True, check=True
    )
    took = 1000 * (time.perf_counter() - began)
    shutil.rmtree(image)
    return took
