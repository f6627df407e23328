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
import shutil
from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from sandpit.lib import mounts, partials
from sandpit.lib.private import private
from sandpit.node.host.cgroups import Cgroup
from sandpit.node.host.commands import CommandFailed, run, save, tied
from sandpit.node.host.processes import ProcessId
from sandpit.node.runtime import gvisor_checkpoint, gvisor_control, oci
from sandpit.node.runtime.base import GuestProcess, Plan, RuntimeFailed
from sandpit.node.runtime.detached import run_detached
from sandpit.node.runtime.releases import GOFER, Releases

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
_DISK = "disk"
"""In the bundle: where runsc keeps the file that is behind the sandbox's disk."""
_RESTORE = "restore"
"""In the bundle: where the snapshot is mounted that a boot takes its file system from."""
_GUARDED = ["ro", "nosuid", "nodev"]
"""What the gofer serves of the host. The mounts themselves say the same, see `mounts.bind`; that is what holds."""
_MKFS_SECONDS = 900.0
_MKFS_OPTIONS = ("-Enoinline_data", "-x-1")
"""No extended attributes: releases of 2024 answer EOPNOTSUPP to every look at a file that has any (ping's capabilities)."""
_FORMER_OPTIONS = ("-Enoinline_data",)
"""In Sandpit up to 0.1, which did not name its files by them."""
_ROOT_SOURCE = "dev.gvisor.spec.rootfs.source"
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
    # Sockets and pipes of the host are nobody's way out.
    "--host-uds=none",
    "--host-fifo=none",
    # The sentry opens no file of the host by itself: it has no directory of the host to open one in, and a system call filter that
    # refuses it. The gofer, which has no other task, opens for it.
    "--directfs=false",
)
_DIRECT = ("--directfs=true",)
"""After the others: the last one counts."""
_THROUGH_GOFER = b"--directfs=false"
"""In the command line of a sandbox's process, if it was started like this: runsc passes on what is not its default."""


class Gvisor:
    """The `runsc` driver."""

    name = "gvisor"
    stacks_layers = False
    own_memory_mb = 128

    def __init__(self, binary: Path, state_dir: Path, releases_dir: Path, *, direct: bool = False) -> None:
        """`state_dir` is runsc's root directory, of this node alone; `releases_dir` keeps binaries that sandboxes and snapshots need.

        With `direct` the sentry opens files of the host itself.
        """
        self._direct = direct
        self._releases = Releases(releases_dir)
        self._binary = binary
        self._state_dir = state_dir
        self._skeleton = state_dir.parent / "skeleton/root"

    def prepare(self) -> None:
        """Make the directories that the driver needs."""
        private(self._state_dir)
        private(self._skeleton.parent)
        for path in (self._skeleton, *(self._skeleton / name for name in _MOUNT_POINTS)):
            path.mkdir(exist_ok=True)
            path.chmod(0o755)  # of what is seen inside
        (self._skeleton / "tmp").chmod(0o1777)

    @cached_property
    def _kept(self) -> Path:
        """The copy that every command runs: what is installed under a running server cannot come between a sandbox and its release."""
        return self._releases.keep(self._binary)

    def release(self) -> str:
        """See Runtime."""
        return self._kept.name if self._direct else self._kept.name + GOFER

    def keep_release(self) -> None:
        """See Runtime."""
        if not self._kept.is_file():
            del self._kept
        assert self._kept

    def keep_release_of(self, process: ProcessId, recorded: str) -> str:
        """See Runtime. The process itself is believed before the record: its executable is there, even after that was replaced."""
        if recorded and self._releases.find(recorded):
            return recorded
        proc = Path(f"/proc/{process.pid}")
        way = GOFER if _THROUGH_GOFER in (proc / "cmdline").read_bytes().split(b"\0") else ""
        return self._releases.keep(proc / "exe").name + way

    def of_release(self, release: str) -> Gvisor | None:
        """See Runtime."""
        if release == self.release():
            return self
        kept = self._releases.find(release)
        return self._like(kept, direct=not release.endswith(GOFER)) if kept else None

    def _like(self, kept: Path, *, direct: bool) -> Gvisor:
        """A driver of another release, for the same sandboxes."""
        other = Gvisor(kept, self._state_dir, self._releases.directory, direct=direct)
        other._kept = kept
        return other

    def same_binary(self, release: str) -> bool:
        """See Runtime."""
        return release.removesuffix(GOFER) == self._kept.name

    def other_ways(self) -> Sequence[Gvisor]:
        """See Runtime."""
        return [self._like(self._kept, direct=not self._direct)]

    def forget_releases(self, needed: Collection[str]) -> None:
        """See Runtime."""
        self._releases.forget({*needed, self.release()})

    def snapshots(self) -> bool:
        """See Runtime."""
        return True

    async def root(self, layers: Sequence[Path], store: Path, *, former: bool = False) -> Path:
        """See Runtime. One EROFS file for each stack of layers."""
        options = _FORMER_OPTIONS if former else _MKFS_OPTIONS
        parts = [*(layer.parent.name for layer in layers), *_MOUNT_POINTS, *(() if former else options)]
        key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]
        image = store / f"{key}.erofs"
        if image.exists():
            return image
        private(store)
        with partials.making(store, key) as work:  # two builds may need the same one at once
            merged, partial = work / "merged", work / "image"
            merged.mkdir()
            mounts.overlay(merged, [*layers, self._skeleton])
            try:
                # A server that is killed leaves nobody at work on a gigabyte.
                mkfs = ("setpriv", "--pdeathsig", "KILL", "mkfs.erofs", *options)
                await run(*mkfs, str(partial), str(merged), timeout=_MKFS_SECONDS)
            finally:
                mounts.unmount(merged)
            image.with_suffix(".json").write_text(json.dumps([layer.parent.name for layer in layers]))
            partial.rename(image)
        return image

    def root_of(self, bundle: Path) -> str:
        """See Runtime. Memory refers to files by their numbers in it."""
        try:
            configuration = json.loads((bundle / "config.json").read_text())
            return Path(configuration["annotations"][_ROOT_SOURCE]).name
        except (ValueError, KeyError, TypeError) as error:
            raise OSError(f"{bundle} has no usable configuration: {error!r}") from error

    async def boot(self, plan: Plan) -> ProcessId:
        """See Runtime."""
        self._write_bundle(plan)
        arguments = ("--detach", "--bundle", str(plan.bundle), plan.container_id)
        await self._run(plan, "run", *arguments, stdin=plan.handover)
        return self._begun(plan.container_id)

    async def restore(self, plan: Plan, image: Path) -> ProcessId:
        """See Runtime."""
        self._write_bundle(plan)
        arguments = ("--detach", "--bundle", str(plan.bundle), "--image-path", str(image))
        await self._run(plan, "restore", *arguments, plan.container_id)
        return self._begun(plan.container_id)

    async def checkpoint(self, container_id: str, image: Path, *, leave_running: bool) -> None:
        """See Runtime."""
        arguments = ["--compression=none", "--exclude-committed-zero-pages", "--image-path", str(image)]
        if leave_running:
            arguments.append("--leave-running")
        await self._control("checkpoint", *arguments, container_id, timeout=_CHECKPOINT_SECONDS)
        try:
            await gvisor_checkpoint.check(image)
        except (gvisor_checkpoint.Damaged, CommandFailed, OSError) as error:
            raise RuntimeFailed(f"runsc has not written all of the checkpoint, is the disk full? {error}") from error

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
        command = (*self._runsc(), "exec", container_id)
        try:
            await save(*command, *oci.guest_command("export"), target=target, limit=limit, timeout=_EXPORT_SECONDS)
        except CommandFailed as error:
            raise RuntimeFailed(f"the disk of container {container_id} could not be read: {error}") from error

    def written(self, bundle: Path) -> Path | None:
        """See Runtime. Only the sandbox can see it."""
        return None

    def set_timer_slack(self, process: ProcessId, seconds: float) -> None:
        """See Runtime. The sentry's threads are all that wakes of itself; threads that they start have what they have (prctl(2))."""
        process.set_timer_slack(seconds)

    async def processes(self, container_id: str, cgroup: Cgroup) -> Sequence[GuestProcess]:
        """See Runtime. On the host, a process's memory is a part of the sentry's file: only the sentry knows whose it is."""
        return await gvisor_control.processes(self._socket(container_id))

    async def kill_process(self, container_id: str, process: GuestProcess) -> None:
        """See Runtime."""
        await gvisor_control.kill(self._socket(container_id), container_id, process.pid)

    async def name_host(self, process: ProcessId, name: str) -> None:
        """See Runtime. The guest does it."""

    async def forget(self, plan_bundle: Path, container_id: str) -> None:
        """See Runtime. `runsc delete` waits for seconds; what it would remove is removed here."""
        for name in (_RESTORE, _DISK):
            mounts.unmount(plan_bundle / name)
        for path in (*self._state_dir.glob(f"{container_id}_sandbox*"), self._socket(container_id)):
            path.unlink(missing_ok=True)
        await asyncio.to_thread(shutil.rmtree, plan_bundle / _DISK, ignore_errors=True)

    def _write_bundle(self, plan: Plan) -> None:
        disk = plan.bundle / _DISK
        disk.mkdir(parents=True, exist_ok=True, mode=0o700)
        mounts.bind(disk, disk, read_only=False)
        if plan.disk is not None:
            restore = plan.bundle / _RESTORE
            restore.mkdir(mode=0o700)
            # "ro" in the configuration alone does not hold, see Closures.
            mounts.bind(plan.disk.parent, restore)
        (plan.bundle / "config.json").write_text(json.dumps(self.config(plan, disk)))

    def config(self, plan: Plan, disk: Path) -> dict[str, Any]:
        """The OCI configuration."""
        size = f"size={plan.limits.disk_mb}m"
        # Newer releases of runsc restore with the options of the time only.
        guarded = ["ro"] if self._direct else _GUARDED
        restore = {
            "destination": "/.restore",
            "type": "bind",
            "source": str(plan.bundle / _RESTORE),
            "options": guarded,
        }
        hint = "dev.gvisor.spec.mount.disk"
        return {
            "ociVersion": "1.0.0",
            "hostname": "sandbox",
            "root": {"path": str(self._skeleton), "readonly": True},
            "process": oci.process(oci.guest_command("stage1", "agent"), _GUEST_CAPABILITIES, no_new_privileges=False),
            "annotations": {
                _ROOT_SOURCE: str(plan.root),
                "dev.gvisor.spec.rootfs.type": "erofs",
                f"{hint}.source": str(disk),
                f"{hint}.type": "tmpfs",
                f"{hint}.share": "container",
                f"{hint}.options": f"rw,{size}",
            },
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]},
                {"destination": "/.sandpit", "type": "bind", "source": str(plan.closure), "options": guarded},
                {"destination": "/.disk", "type": "bind", "source": str(disk), "options": ["rw", size]},
                *([restore] if plan.disk is not None else []),
            ],
            "linux": {
                "namespaces": oci.namespaces(plan, "pid", "ipc", "uts", "mount"),
                "cgroupsPath": plan.cgroup,
                "resources": oci.resources(plan.limits, extra_memory_mb=self.own_memory_mb, extra_pids=_SENTRY_PIDS),
            },
        }

    def _socket(self, container_id: str) -> Path:
        """Where a sandbox's kernel takes calls."""
        return self._state_dir / f"runsc-{container_id}.sock"

    def _runsc(self) -> tuple[str, ...]:
        """The command line of every call, up to the command."""
        return (str(self._kept), "--root", str(self._state_dir), *FLAGS, *(_DIRECT if self._direct else ()))

    async def _run(self, plan: Plan, command: str, *arguments: str, stdin: bytes = b"") -> None:
        """Start a container. Raises: RuntimeFailed."""
        # Releases up to 2024 look for this file to tell whether they are in the root network namespace; newer kernels have it in
        # every namespace. Hiding /proc/sys/net from runsc alone makes them ask the namespace itself.
        shim = 'mount -t tmpfs none /proc/sys/net && exec "$@"'
        runsc = (*self._runsc(), command, *arguments)
        argv = tied(shim, *runsc, propagation="slave")
        await run_detached(argv, f"runsc {command}", plan.log, _START_SECONDS, stdin)

    async def _control(self, command: str, *arguments: str, timeout: float = 30.0) -> None:
        """Have a running sandbox do something. Raises: RuntimeFailed."""
        try:
            await run(*self._runsc(), command, *arguments, timeout=timeout)
        except CommandFailed as error:
            raise RuntimeFailed(f"runsc {command}: {error.output.strip()[-2000:] or error}") from error

    def _record(self, container_id: str) -> dict[str, Any]:
        """runsc's own record of a container. Raises: RuntimeFailed."""
        states = list(self._state_dir.glob(f"{container_id}_sandbox*.state"))
        if not states:
            raise RuntimeFailed(f"runsc keeps no record of container {container_id}")
        record: dict[str, Any] = json.loads(states[0].read_text())
        return record

    def _begun(self, container_id: str) -> ProcessId:
        """The sentry of a sandbox that has just been started.

        When the kernel must kill in it, the sentry is what frees memory. The processes that it runs the guest's code in look larger; when
        one of them is killed, the guest's process hangs, and its memory stays in the sentry's file (measured).
        """
        process = self._sandbox_process(container_id)
        process.die_first()
        return process

    def _sandbox_process(self, container_id: str) -> ProcessId:
        """The sandbox's host process."""
        record = self._record(container_id)
        try:
            return ProcessId.of(int(record["sandbox"]["pid"]))
        except (KeyError, ProcessLookupError) as error:
            raise RuntimeFailed(f"the sandbox process of container {container_id} is gone: {error}") from error
