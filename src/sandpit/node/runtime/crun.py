"""crun: namespaces, a user namespace of the sandbox's own, seccomp, few capabilities. For the operator's own code, and speed.

The root file system is an overlay made on the host from idmapped layers, so that root in the sandbox is an unprivileged user outside. Its
upper part lies on an ext4 image of the sandbox's disk size: a full disk is ENOSPC inside and touches nobody else.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

from sandpit.node import mounts, namespaces
from sandpit.node.cgroups import Cgroup, LimitValues
from sandpit.node.commands import run
from sandpit.node.processes import ProcessId
from sandpit.node.runtime import oci, seccomp
from sandpit.node.runtime.base import Plan, RuntimeFailed, SnapshotUnsupported

_FIRST_UID = 0x10000000
"""Outer user ids start here, 65536 for each slot: no user of the host, none of another sandbox."""
_UIDS = 65536
_MASKED = (
    "acpi",
    "asound",
    "interrupts",
    "kallsyms",
    "kcore",
    "keys",
    "latency_stats",
    "sched_debug",
    "scsi",
    "sysrq-trigger",
    "timer_list",
)
_READ_ONLY = ("bus", "fs", "irq", "sys")
_AGENT_PIDS = 64


_HIDE_UNIFIED = "if [ -d /sys/fs/cgroup/unified ]; then mount -t tmpfs none /sys/fs/cgroup/unified; fi && "
"""crun refuses the hybrid layout while its v2 part has a controller, even when told to leave groups alone; hidden from crun alone,
the layout is a legacy one."""


class Crun:
    """The `crun` driver."""

    name = "crun"

    def __init__(self, binary: Path, state_dir: Path) -> None:
        """`state_dir` is crun's root directory, of this node alone."""
        self._binary = binary
        self._state_dir = state_dir

    def prepare(self) -> None:
        """Make the directories that the driver needs."""
        self._state_dir.mkdir(parents=True, exist_ok=True, mode=0o711)

    @cached_property
    def _digest(self) -> str:
        with self._binary.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def release(self) -> str:
        """See Runtime."""
        return self._digest

    def snapshots(self) -> bool:
        """See Runtime. Live snapshots need CRIU, which is not driven yet."""
        return False

    async def root(self, layers: Sequence[Path], store: Path) -> Path:
        """See Runtime. Every sandbox mounts the layers for itself, with owners of its own."""
        return layers[-1]

    async def boot(self, plan: Plan) -> ProcessId:
        """See Runtime."""
        rootfs = await self._assemble(plan)
        (plan.bundle / "config.json").write_text(json.dumps(self.config(plan, rootfs)))
        cgroup = Cgroup(plan.cgroup)
        cgroup.create(LimitValues(plan.limits.cpu_count, plan.limits.memory_mb, plan.limits.pids + _AGENT_PIDS))
        pid_file = plan.bundle / "pid"
        arguments = ["run", "--detach", "--pid-file", str(pid_file), "--bundle", str(plan.bundle), plan.container_id]
        await self._run(plan, cgroup, arguments)
        try:
            return ProcessId.of(int(pid_file.read_text()))
        except ProcessLookupError as error:
            raise RuntimeFailed(f"container {plan.container_id} ended at once") from error

    async def restore(self, plan: Plan, image: Path) -> ProcessId:
        """See Runtime."""
        raise SnapshotUnsupported("crun sandboxes have no live snapshots on this machine: boot them instead")

    async def checkpoint(self, container_id: str, image: Path, *, leave_running: bool) -> None:
        """See Runtime."""
        raise SnapshotUnsupported("crun sandboxes have no live snapshots on this machine")

    async def name_host(self, process: ProcessId, name: str) -> None:
        """See Runtime. It takes CAP_SYS_ADMIN, which root in the container lacks."""
        executor = ThreadPoolExecutor(1)  # the thread stays in the container's namespace, so it must not be used again
        try:
            await asyncio.get_running_loop().run_in_executor(executor, namespaces.set_host_name, process.pid, name)
        finally:
            executor.shutdown(wait=False)

    async def forget(self, plan_bundle: Path, container_id: str) -> None:
        """See Runtime."""
        shutil.rmtree(self._state_dir / container_id, ignore_errors=True)
        for path in sorted(mounts.mount_points(), reverse=True):
            if path.startswith(f"{plan_bundle}/"):
                mounts.unmount(Path(path))

    async def _assemble(self, plan: Plan) -> Path:
        """Mount the writable root; everything lies below the bundle."""
        base = _FIRST_UID + plan.slot.number * _UIDS
        disk, root = plan.bundle / "disk", plan.bundle / "root"
        for directory in (disk, root):
            directory.mkdir()
        await self._make_disk(plan.bundle / "disk.img", disk, plan.limits.disk_mb, base)
        lowers = []
        for number, layer in enumerate(plan.layers):
            lower = plan.bundle / f"lower{number}"
            lower.mkdir()
            mounts.bind_idmapped(layer, lower, base)
            lowers.append(lower)
        mounts.overlay(root, lowers, disk / "upper", disk / "work")
        return root

    async def _make_disk(self, image: Path, target: Path, size_mb: int, base: int) -> None:
        """A sparse ext4 image, mounted through a loop device that goes with the mount."""
        with image.open("wb") as file:
            file.truncate(size_mb << 20)
        options = f"nodiscard,lazy_itable_init=1,root_owner={base}:{base}"
        await run("mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", "-E", options, str(image))
        await run("mount", "-o", "loop,nosuid,nodev", str(image), str(target))
        await asyncio.to_thread(shutil.rmtree, target / "lost+found", ignore_errors=True)
        for name in ("upper", "work"):
            (target / name).mkdir(mode=0o755)
            os.chown(target / name, base, base)
        # setuid programs (sudo) must work in the sandbox; outside nobody reaches this mount.
        await run("mount", "-o", "remount,suid", str(target))

    def config(self, plan: Plan, rootfs: Path) -> dict[str, Any]:
        """The OCI configuration."""
        base = _FIRST_UID + plan.slot.number * _UIDS
        mapping = [{"containerID": 0, "hostID": base, "size": _UIDS}]
        shm = f"size={plan.limits.memory_mb // 2}m"
        return {
            "ociVersion": "1.0.0",
            "hostname": "sandbox",
            "root": {"path": str(rootfs), "readonly": False},
            "process": oci.process(oci.guest_command("agent"), oci.CAPABILITIES, no_new_privileges=False),
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
                {
                    "destination": "/dev",
                    "type": "tmpfs",
                    "source": "tmpfs",
                    "options": ["nosuid", "mode=755", "size=64k"],
                },
                {
                    "destination": "/dev/pts",
                    "type": "devpts",
                    "source": "devpts",
                    "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
                },
                {
                    "destination": "/dev/shm",
                    "type": "tmpfs",
                    "source": "shm",
                    "options": ["nosuid", "nodev", "mode=1777", shm],
                },
                {
                    "destination": "/sys",
                    "type": "tmpfs",
                    "source": "sys",
                    "options": ["nosuid", "nodev", "noexec", "ro", "size=0"],
                },
                {
                    "destination": "/.sandpit",
                    "type": "bind",
                    "source": str(plan.closure),
                    "options": ["bind", "ro", "nosuid", "nodev"],
                },
            ],
            "linux": {
                "namespaces": oci.namespaces(plan, "pid", "ipc", "uts", "mount", "user", "cgroup"),
                "uidMappings": mapping,
                "gidMappings": mapping,
                "maskedPaths": [f"/proc/{name}" for name in _MASKED],
                "readonlyPaths": [f"/proc/{name}" for name in _READ_ONLY],
                "seccomp": seccomp.filter_for(oci.CAPABILITIES),
            },
        }

    async def _run(self, plan: Plan, cgroup: Cgroup, arguments: list[str]) -> None:
        """Run crun inside the container's group: it inherits the limits from its first instruction on."""
        join = "".join(f"echo $$ > {path}/cgroup.procs && " for path in cgroup.directories())
        argv = ["sh", "-c", f'{join}{_HIDE_UNIFIED}exec "$@"', "sh", str(self._binary), "--root", str(self._state_dir)]
        argv = ["unshare", "--mount", *argv, "--cgroup-manager=disabled", *arguments]
        log = plan.bundle.parent / "runtime.log"
        descriptor = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            process = await asyncio.create_subprocess_exec(
                *argv, stdin=asyncio.subprocess.DEVNULL, stdout=descriptor, stderr=descriptor, start_new_session=True
            )
        finally:
            os.close(descriptor)
        try:
            async with asyncio.timeout(60):
                status = await process.wait()
        except TimeoutError:
            process.kill()
            raise RuntimeFailed(
                f"crun run did not finish in time: {log.read_text(errors='replace').strip()[-2000:]}"
            ) from None
        except asyncio.CancelledError:
            process.kill()
            raise
        if status:
            output = log.read_text(errors="replace").strip()[-2000:]
            raise RuntimeFailed(f"crun run failed with status {status}: {output or '(no output)'}")
