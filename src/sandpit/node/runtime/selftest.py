"""Whether a runtime runs real programs: some builds start, and fail with the first background job."""

from __future__ import annotations

from pathlib import Path

from sandpit.contract.errors import NodeError
from sandpit.lib.private import private
from sandpit.node.runtime import oci
from sandpit.node.runtime.base import Runtime
from sandpit.node.sandboxes.launcher import Sandbox

_SELF_TEST = """
import os, sys, time

def child(work):
    pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    return pid

def pump(source, target):
    while data := os.read(source, 4096):
        os.write(target, data)

for _ in range(3):
    sleepers = [child(lambda: time.sleep(0.05)) for _ in range(20)]
    first, second = os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)
    stages = [child(lambda: os.write(first[1], bytes(9999)))]
    os.close(first[1])
    stages.append(child(lambda: pump(first[0], second[1])))
    os.close(second[1])
    size = 0
    while data := os.read(second[0], 4096):
        size += len(data)
    states = [os.waitpid(pid, 0)[1] for pid in sleepers + stages]
    if any(states) or size != 9999:
        sys.exit(f"{size} bytes of 9999, statuses {states}")
"""
"""Background processes and a pipeline, several times, with the guest's own Python: an image need not have a shell."""


async def self_test(sandbox: Sandbox, runtime: Runtime, passed_dir: Path) -> None:
    """Refuse a release that fails; one that has passed is remembered in `passed_dir`. Raises: NodeError, OSError."""
    release = runtime.release()
    passed = passed_dir / release
    if passed.exists():
        return
    status, output = await sandbox.agent.run([*oci.GUEST_PYTHON, "-c", _SELF_TEST], user="root")
    if status:
        raise NodeError(
            f"the {sandbox.runtime} release {release[:12]} does not run programs reliably (self-test: status {status}, "
            f"{output.strip()[-500:]}): install another release, see `sandpit doctor`"
        )
    private(passed.parent)
    passed.touch()
