"""gVisor: a user-space kernel between the sandbox and the host.

A template's root file system is one EROFS file that the sentry reads by itself: no call leaves the sandbox to open a file, all sandboxes
share its pages, and nothing can write to it. The guest's first step (sandpit.guest.stage1) lays a file system of limited size (`/.disk`:
gVisor's tmpfs, backed by a file in the bundle, not by memory) over it and moves into the result. So a full disk is ENOSPC inside, never a
failure of the sandbox, and all writes are part of a checkpoint.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import shutil
import tempfile
from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from sandpit.node import mounts
from sandpit.node.cgroups import Cgroup
from sandpit.node.commands import CommandFailed, run, save, tied
from sandpit.node.processes import ProcessId
from sandpit.node.runtime import oci
from sandpit.node.runtime.base import Plan, RuntimeFailed
from sandpit.node.runtime.detached import run_detached

_GUEST_CAPABILITIES = (
    *oci.CAPABILITIES,
    # These hold inside gVisor's own kernel only; the host never sees them.
    "CAP_DAC_READ_SEARCH",
    "CAP_IPC_OWNER",
    "CAP_LEASE",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_ADMIN",
    "CAP_SYS_ADMIN",
    "CAP_SYS_NICE",
    "CAP_SYS_PTRACE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TTY_CONFIG",
)
_MOUNT_POINTS = ("proc", "sys", "dev", "tmp", ".disk", ".restore", ".sandpit")
"""What the template's root must have; runsc mounts a /tmp of its own where it finds none or an empty one."""
_RESTORE = "restore"
"""In the bundle: where the snapshot is mounted that a boot takes its file system from."""
_SENTRY_MEMORY_MB = 128
"""Room for the sentry and the gofer in the sandbox's memory limit."""
_MKFS_SECONDS = 900.0
_MKFS_OPTIONS = ("-Enoinline_data", "-x-1")
"""No extended attributes: releases of 2024 answer EOPNOTSUPP to every look at a file that has any (ping's capabilities)."""
_START_SECONDS = 120.0
_EXPORT_SECONDS = 600.0
_CHECKPOINT_SECONDS = 600.0
"""Gibibytes of memory on a slow disk."""
_FROZEN = "paused"
"""The status in runsc's record."""
_SENTRY_PIDS = 512
"""Room for the sentry's and the gofer's threads in the sandbox's pids limit."""
FLAGS = (
    "--platform=systrap",
    "--network=sandbox",
    "--overlay2=none",
    "--file-access-mounts=exclusive",
    "--cpu-num-from-quota",
    # Without it a checkpoint fails while any TCP connection is open or in TIME_WAIT.
    "--net-disconnect-ok",
)


class Gvisor:
    """The `runsc` driver."""

    name = "gvisor"
    stacks_layers = False

    def __init__(self, binary: Path, state_dir: Path, releases_dir: Path) -> None:
        """`state_dir` is runsc's root directory, of this node alone; `releases_dir` keeps binaries that snapshots need."""
        self._binary = binary
        self._releases_dir = releases_dir
        self._state_dir = state_dir
        self._skeleton = state_dir.parent / "skeleton"

    def prepare(self) -> None:
        """Make the directories that the driver needs."""
        self._state_dir.mkdir(parents=True, exist_ok=True, mode=0o711)
        for name in _MOUNT_POINTS:
            (self._skeleton / name).mkdir(parents=True, exist_ok=True)
        (self._skeleton / "tmp").chmod(0o1777)

    @cached_property
    def _digest(self) -> str:
        with self._binary.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def release(self) -> str:
        """See Runtime."""
        return self._digest

    def keep_release(self) -> None:
        """See Runtime."""
        kept = self._releases_dir / self.release()
        if kept.exists():
            return
        self._releases_dir.mkdir(parents=True, exist_ok=True, mode=0o755)
        partial = kept.with_suffix(".new")
        shutil.copy(self._binary, partial)
        partial.rename(kept)

    def other_release(self, release: str) -> Gvisor | None:
        """See Runtime."""
        kept = self._releases_dir / release
        return Gvisor(kept, self._state_dir, self._releases_dir) if kept.is_file() else None

    def forget_releases(self, needed: Collection[str]) -> None:
        """See Runtime."""
        for kept in self._releases_dir.glob("*"):
            if kept.name not in needed:
                kept.unlink()

    def snapshots(self) -> bool:
        """See Runtime."""
        return True

    async def root(self, layers: Sequence[Path], store: Path) -> Path:
        """See Runtime. One EROFS file for each stack of layers."""
        parts = [*(layer.parent.name for layer in layers), *_MOUNT_POINTS, *_MKFS_OPTIONS]
        key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]
        image = store / f"{key}.erofs"
        if image.exists():
            return image
        store.mkdir(parents=True, exist_ok=True)
        partial = store / f"{key}.{secrets.token_hex(4)}.new"  # two builds may need the same one at once
        with tempfile.TemporaryDirectory(dir=store) as scratch:
            merged = Path(scratch)
            mounts.overlay(merged, [*layers, self._skeleton])
            try:
                await run("mkfs.erofs", *_MKFS_OPTIONS, str(partial), str(merged), timeout=_MKFS_SECONDS)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
            finally:
                mounts.unmount(merged)
        image.with_suffix(".json").write_text(json.dumps([layer.parent.name for layer in layers]))
        partial.rename(image)
        return image

    async def boot(self, plan: Plan) -> ProcessId:
        """See Runtime."""
        self._write_bundle(plan)
        await self._run(plan.bundle, "run", "--detach", "--bundle", str(plan.bundle), plan.container_id)
        return self._sandbox_process(plan.container_id)

    async def restore(self, plan: Plan, image: Path) -> ProcessId:
        """See Runtime."""
        self._write_bundle(plan)
        arguments = ("--detach", "--bundle", str(plan.bundle), "--image-path", str(image))
        await self._run(plan.bundle, "restore", *arguments, plan.container_id)
        return self._sandbox_process(plan.container_id)

    async def checkpoint(self, container_id: str, image: Path, *, leave_running: bool) -> None:
        """See Runtime."""
        arguments = ["--compression=none", "--exclude-committed-zero-pages", "--image-path", str(image)]
        if leave_running:
            arguments.append("--leave-running")
        await self._control("checkpoint", *arguments, container_id, timeout=_CHECKPOINT_SECONDS)

    async def freeze(self, container_id: str, cgroup: Cgroup) -> None:
        """See Runtime."""
        await self._control("pause", container_id)

    async def thaw(self, container_id: str, cgroup: Cgroup) -> None:
        """See Runtime."""
        if self._record(container_id).get("status") == _FROZEN:
            await self._control("resume", container_id)

    async def copy_disk(self, bundle: Path, target: Path) -> bool:
        """See Runtime. What was written is in the sandbox's memory file: only the sandbox can read it."""
        return False

    async def export_disk(self, container_id: str, target: Path, limit: int) -> None:
        """See Runtime. Another process is started in the sandbox."""
        command = (str(self._binary), "--root", str(self._state_dir), *FLAGS, "exec", container_id)
        try:
            await save(*command, *oci.guest_command("export"), target=target, limit=limit, timeout=_EXPORT_SECONDS)
        except CommandFailed as error:
            raise RuntimeFailed(f"the disk of container {container_id} could not be read: {error}") from error

    def written(self, bundle: Path) -> Path | None:
        """See Runtime. Only the sandbox can see it."""
        return None

    async def name_host(self, process: ProcessId, name: str) -> None:
        """See Runtime. The guest does it."""

    async def forget(self, plan_bundle: Path, container_id: str) -> None:
        """See Runtime. `runsc delete` waits for seconds; what it would remove is removed here."""
        mounts.unmount(plan_bundle / _RESTORE)
        for path in (*self._state_dir.glob(f"{container_id}_sandbox*"), self._state_dir / f"runsc-{container_id}.sock"):
            path.unlink(missing_ok=True)
        await asyncio.to_thread(shutil.rmtree, plan_bundle / "disk", ignore_errors=True)

    def _write_bundle(self, plan: Plan) -> None:
        disk = plan.bundle / "disk"
        disk.mkdir(parents=True, exist_ok=True)
        if plan.disk is not None:
            restore = plan.bundle / _RESTORE
            restore.mkdir()
            # "ro" in the configuration alone does not hold, see Closures.
            mounts.bind_read_only(plan.disk.parent, restore)
        (plan.bundle / "config.json").write_text(json.dumps(self.config(plan, disk)))

    def config(self, plan: Plan, disk: Path) -> dict[str, Any]:
        """The OCI configuration."""
        size = f"size={plan.limits.disk_mb}m"
        restore = {"destination": "/.restore", "type": "bind", "source": str(plan.bundle / _RESTORE), "options": ["ro"]}
        hint = "dev.gvisor.spec.mount.disk"
        return {
            "ociVersion": "1.0.0",
            "hostname": "sandbox",
            "root": {"path": str(self._skeleton), "readonly": True},
            "process": oci.process(oci.guest_command("stage1", "agent"), _GUEST_CAPABILITIES, no_new_privileges=False),
            "annotations": {
                "dev.gvisor.spec.rootfs.source": str(plan.root),
                "dev.gvisor.spec.rootfs.type": "erofs",
                f"{hint}.source": str(disk),
                f"{hint}.type": "tmpfs",
                f"{hint}.share": "container",
                f"{hint}.options": f"rw,{size}",
            },
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]},
                {"destination": "/.sandpit", "type": "bind", "source": str(plan.closure), "options": ["ro"]},
                {"destination": "/.disk", "type": "bind", "source": str(disk), "options": ["rw", size]},
                *([restore] if plan.disk is not None else []),
            ],
            "linux": {
                "namespaces": oci.namespaces(plan, "pid", "ipc", "uts", "mount"),
                "cgroupsPath": plan.cgroup,
                "resources": oci.resources(plan.limits, extra_memory_mb=_SENTRY_MEMORY_MB, extra_pids=_SENTRY_PIDS),
            },
        }

    async def _run(self, bundle: Path, command: str, *arguments: str) -> None:
        """Start a container. Raises: RuntimeFailed."""
        # Releases up to 2024 look for this file to tell whether they are in the root network namespace; newer kernels have it in
        # every namespace. Hiding /proc/sys/net from runsc alone makes them ask the namespace itself.
        shim = 'mount -t tmpfs none /proc/sys/net && exec "$@"'
        runsc = (str(self._binary), "--root", str(self._state_dir), *FLAGS, command, *arguments)
        argv = tied(shim, *runsc, propagation="slave")
        await run_detached(argv, f"runsc {command}", bundle.parent / "runtime.log", _START_SECONDS)

    async def _control(self, command: str, *arguments: str, timeout: float = 30.0) -> None:
        """Have a running sandbox do something. Raises: RuntimeFailed."""
        try:
            await run(str(self._binary), "--root", str(self._state_dir), *FLAGS, command, *arguments, timeout=timeout)
        except CommandFailed as error:
            raise RuntimeFailed(f"runsc {command}: {error.output.strip()[-2000:] or error}") from error

    def _record(self, container_id: str) -> dict[str, Any]:
        """runsc's own record of a container. Raises: RuntimeFailed."""
        states = list(self._state_dir.glob(f"{container_id}_sandbox*.state"))
        if not states:
            raise RuntimeFailed(f"runsc keeps no record of container {container_id}")
        record: dict[str, Any] = json.loads(states[0].read_text())
        return record

    def _sandbox_process(self, container_id: str) -> ProcessId:
        """The sandbox's host process."""
        record = self._record(container_id)
        try:
            return ProcessId.of(int(record["sandbox"]["pid"]))
        except (KeyError, ProcessLookupError) as error:
            raise RuntimeFailed(f"the sandbox process of container {container_id} is gone: {error}") from error
