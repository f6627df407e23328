"""crun: namespaces, a user namespace of the sandbox's own, seccomp, few capabilities. For the operator's own code, and speed.

The root file system is an overlay made on the host from idmapped layers, so that root in the sandbox is an unprivileged user outside. Its
upper part lies on an ext4 image of the sandbox's disk size: a full disk is ENOSPC inside and touches nobody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

from sandpit.node import mounts, namespaces
from sandpit.node.cgroups import Cgroup, LimitValues
from sandpit.node.commands import CommandFailed, run, tied
from sandpit.node.processes import ProcessId
from sandpit.node.runtime import oci, seccomp
from sandpit.node.runtime.base import Plan, RuntimeFailed, SnapshotUnsupported

log = logging.getLogger(__name__)

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
_COPY_SECONDS = 600.0
_BOOT_ID = "boot_id"
_AGENT_PIDS = 64
_WATCHES = {"max_inotify_instances": 256, "max_inotify_watches": 1 << 17}
"""Of one sandbox. The kernel counts them for the sandbox and again for the host's root, whose own limits are small
(inotify(7)): without these, one sandbox could leave no file watches for the others, nor for the host's services."""
_WATCHING_SANDBOXES = 1024
"""How many sandboxes may use all of that at once. Memory for watches comes out of the sandbox's own limit."""

_HIDE_UNIFIED = "if [ -d /sys/fs/cgroup/unified ]; then mount -t tmpfs none /sys/fs/cgroup/unified; fi && "
"""crun refuses the hybrid layout while its v2 part has a controller, even when told to leave groups alone; hidden from crun alone,
the layout is a legacy one."""


class Crun:
    """The `crun` driver."""

    name = "crun"
    stacks_layers = True

    def __init__(self, binary: Path, state_dir: Path) -> None:
        """`state_dir` is crun's root directory, of this node alone."""
        self._binary = binary
        self._state_dir = state_dir

    def prepare(self) -> None:
        """Make the directories that the driver needs."""
        self._state_dir.mkdir(parents=True, exist_ok=True, mode=0o711)
        for name, value in _WATCHES.items():
            _raise_host_limit(
                Path("/proc/sys/fs/inotify", name.replace("inotify", "user")), value * _WATCHING_SANDBOXES
            )

    @cached_property
    def _digest(self) -> str:
        with self._binary.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def release(self) -> str:
        """See Runtime."""
        return self._digest

    def keep_release(self) -> None:
        """See Runtime. A disk is bound to no release."""

    def other_release(self, release: str) -> Crun | None:
        """See Runtime."""
        return None

    def forget_releases(self, needed: Collection[str]) -> None:
        """See Runtime."""

    def snapshots(self) -> bool:
        """See Runtime. Live snapshots need CRIU, which is not driven yet."""
        return False

    async def root(self, layers: Sequence[Path], store: Path) -> Path:
        """See Runtime. Every sandbox mounts the layers for itself, with owners of its own."""
        return layers[-1]

    async def boot(self, plan: Plan) -> ProcessId:
        """See Runtime."""
        rootfs = await self._assemble(plan)
        (plan.bundle / _BOOT_ID).write_text(f"{uuid.uuid4()}\n")
        (plan.bundle / "config.json").write_text(json.dumps(self.config(plan, rootfs)))
        cgroup = Cgroup(plan.cgroup)
        cgroup.create(LimitValues(plan.limits.cpu_count, plan.limits.memory_mb, plan.limits.pids + _AGENT_PIDS))
        pid_file = plan.bundle / "pid"
        arguments = ["run", "--detach", "--pid-file", str(pid_file), "--bundle", str(plan.bundle), plan.container_id]
        await self._run(plan, cgroup, arguments)
        try:
            process = ProcessId.of(int(pid_file.read_text()))
            namespaces.set_user_limits(process.pid, _WATCHES)
        except (ProcessLookupError, FileNotFoundError) as error:
            raise RuntimeFailed(f"container {plan.container_id} ended at once") from error
        return process

    async def restore(self, plan: Plan, image: Path) -> ProcessId:
        """See Runtime."""
        raise SnapshotUnsupported("crun sandboxes have no live snapshots on this machine: boot them instead")

    async def checkpoint(self, container_id: str, image: Path, *, leave_running: bool) -> None:
        """See Runtime."""
        raise SnapshotUnsupported("crun sandboxes have no live snapshots on this machine")

    async def freeze(self, container_id: str, cgroup: Cgroup) -> None:
        """See Runtime."""
        try:
            await cgroup.freeze()
        except (OSError, TimeoutError) as error:
            raise RuntimeFailed(f"container {container_id} cannot be frozen: {error!r}") from error

    async def thaw(self, container_id: str, cgroup: Cgroup) -> None:
        """See Runtime. The disk first: what waits for a frozen file system hears no signal."""
        await _unfreeze(self._bundle(container_id))
        try:
            cgroup.thaw()
        except OSError as error:
            raise RuntimeFailed(f"container {container_id} stays frozen: {error}") from error

    async def copy_disk(self, bundle: Path, target: Path) -> bool:
        """See Runtime. After FIFREEZE the mounted image is complete, and stays as it is meanwhile."""
        disk = str(bundle / "disk")
        await run("fsfreeze", "--freeze", disk)
        try:
            await _copy_image(bundle / "disk.img", target)
        finally:
            await asyncio.shield(_unfreeze(bundle))
        return True

    def _bundle(self, container_id: str) -> Path:
        """By crun's own record. Raises: RuntimeFailed."""
        try:
            return Path(json.loads((self._state_dir / container_id / "status").read_text())["bundle"])
        except (OSError, ValueError, KeyError) as error:
            raise RuntimeFailed(f"crun keeps no record of container {container_id}: {error!r}") from error

    def written(self, bundle: Path) -> Path | None:
        """See Runtime. Owners are those seen inside."""
        return bundle / "disk" / "upper"

    async def name_host(self, process: ProcessId, name: str) -> None:
        """See Runtime. It takes CAP_SYS_ADMIN, which root in the container lacks."""
        executor = ThreadPoolExecutor(1)  # the thread stays in the container's namespace, so it must not be used again
        try:
            await asyncio.get_running_loop().run_in_executor(executor, namespaces.set_host_name, process.pid, name)
        finally:
            executor.shutdown(wait=False)

    async def forget(self, plan_bundle: Path, container_id: str) -> None:
        """See Runtime. A file system that a dead server froze would outlive its last mount."""
        await _unfreeze(plan_bundle)
        shutil.rmtree(self._state_dir / container_id, ignore_errors=True)
        for path in sorted(mounts.mount_points(), reverse=True):
            if path.startswith(f"{plan_bundle}/"):
                mounts.unmount(Path(path))

    async def _assemble(self, plan: Plan) -> Path:
        """Mount the writable root; everything lies below the bundle."""
        base = _FIRST_UID + plan.slot.number * _UIDS
        disk, owned, root = plan.bundle / "disk", plan.bundle / "owned", plan.bundle / "root"
        for directory in (disk, owned, root):
            directory.mkdir()
        image = plan.bundle / "disk.img"
        if plan.disk is None:
            await self._make_disk(image, plan.limits.disk_mb)
        else:
            await _copy_image(plan.disk, image)
        await self._mount_disk(image, disk)
        mounts.bind_idmapped(
            disk, owned, base, read_only=False
        )  # on the image, owners are those seen inside: any slot can use it
        lowers = []
        for number, layer in enumerate(plan.layers):
            lower = plan.bundle / f"lower{number}"
            lower.mkdir()
            mounts.bind_idmapped(layer, lower, base)
            lowers.append(lower)
        mounts.overlay(root, lowers, owned / "upper", owned / "work")
        return root

    async def _make_disk(self, image: Path, size_mb: int) -> None:
        """A sparse ext4 image."""
        with image.open("wb") as file:
            file.truncate(size_mb << 20)
        options = "nodiscard,lazy_itable_init=1"
        await run("mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", "-E", options, str(image))

    async def _mount_disk(self, image: Path, target: Path) -> None:
        """Through a loop device that goes with the mount. Set-user-ID programs must work; outside nobody reaches this mount."""
        await run("mount", "-o", "loop,nodev", str(image), str(target))
        for name in ("upper", "work"):
            (target / name).mkdir(mode=0o755, exist_ok=True)

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
                    "destination": "/proc/sys/kernel/random/boot_id",  # else the host's, and the same after a boot
                    "type": "bind",
                    "source": str(plan.bundle / _BOOT_ID),
                    "options": ["bind", "ro", "nosuid", "nodev", "noexec"],
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
        crun = (str(self._binary), "--root", str(self._state_dir), "--cgroup-manager=disabled", *arguments)
        argv = tied(f'{join}{_HIDE_UNIFIED}exec "$@"', *crun)
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


async def _unfreeze(bundle: Path) -> None:
    """Let a sandbox's disk be written to. One that is not frozen, or not mounted any more, is left as it is."""
    disk = bundle / "disk"
    if mounts.is_mount(disk):
        with contextlib.suppress(CommandFailed):  # EINVAL: it is not frozen
            await run("fsfreeze", "--unfreeze", str(disk))


async def _copy_image(source: Path, target: Path) -> None:
    """Copy a disk: at once where the host's file system can share blocks, else without its holes."""
    try:
        await run("cp", "--reflink=auto", "--sparse=always", str(source), str(target), timeout=_COPY_SECONDS)
    except CommandFailed as error:
        raise RuntimeFailed(f"the disk could not be copied: {error.output.strip()}") from error


def _raise_host_limit(path: Path, value: int) -> None:
    """Let the host's root have more of something, never less."""
    try:
        if int(path.read_text()) < value:
            path.write_text(str(value))
    except OSError as error:
        log.warning("%s stays as it is (%s): with many sandboxes, file watches may run out", path, error)
