"""crun: namespaces, a user namespace of the sandbox's own, seccomp, few capabilities. For the operator's own code, and speed.

The root file system is an overlay made from idmapped layers, so that root in the sandbox is an unprivileged user outside. Its upper part
lies on an ext4 image of the sandbox's disk size: a full disk is ENOSPC inside and touches nobody else. The overlay exists only in the
sandbox's own mount namespace, where set-user-ID programs work; what the host keeps of it, image and layers, is mounted without them, in
directories that only root can enter (`crun_stage`).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import shutil
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

from sandpit.lib import mounts
from sandpit.lib.private import passable, private
from sandpit.node.host import namespaces
from sandpit.node.host.cgroups import Cgroup, LimitValues
from sandpit.node.host.commands import tied
from sandpit.node.host.processes import ProcessId
from sandpit.node.runtime import crun_config, crun_processes, crun_stage, disk_image
from sandpit.node.runtime.base import GuestProcess, Plan, RuntimeFailed, SnapshotUnsupported
from sandpit.node.runtime.detached import run_detached

log = logging.getLogger(__name__)

_AGENT_PIDS = 64
_START_SECONDS = 60.0
_WATCHES = {"max_inotify_instances": 256, "max_inotify_watches": 1 << 17}
"""Of one sandbox. The kernel counts them for the sandbox and again for the host's root, whose own limits are small
(inotify(7)): without these, one sandbox could leave no file watches for the others, nor for the host's services."""
_WATCHING_SANDBOXES = 1024
"""How many sandboxes may use all of that at once. Memory for watches comes out of the sandbox's own limit."""


class Crun:
    """The `crun` driver."""

    name = "crun"
    stacks_layers = True
    own_memory_mb = 0

    def __init__(self, binary: Path, state_dir: Path) -> None:
        """`state_dir` is crun's root directory, of this node alone."""
        self._binary = binary
        self._state_dir = state_dir
        self._stage = state_dir.with_name("stage")

    def prepare(self) -> None:
        """Make the directories that the driver needs."""
        private(self._state_dir)
        passable(self._stage)  # for root of every sandbox's user namespace
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

    def keep_release_of(self, process: ProcessId, recorded: str) -> str:
        """See Runtime."""
        return recorded or self.release()

    def of_release(self, release: str) -> Crun:
        """See Runtime. What is done to a running container is done by the kernel."""
        return self

    def same_binary(self, release: str) -> bool:
        """See Runtime."""
        return release == self.release()

    def other_ways(self) -> Sequence[Crun]:
        """See Runtime."""
        return ()

    def forget_releases(self, needed: Collection[str]) -> None:
        """See Runtime."""

    def snapshots(self) -> bool:
        """See Runtime. Live snapshots need CRIU, which is not driven yet."""
        return False

    async def root(self, layers: Sequence[Path], store: Path, *, former: bool = False) -> Path:
        """See Runtime. Every sandbox mounts the layers for itself, with owners of its own."""
        return layers[-1]

    def root_of(self, bundle: Path) -> str:
        """See Runtime."""
        return ""

    async def boot(self, plan: Plan) -> ProcessId:
        """See Runtime."""
        await self._assemble(plan)
        (plan.bundle / "config.json").write_text(json.dumps(crun_config.configuration(plan, self._stage)))
        cgroup = Cgroup(plan.cgroup)
        cgroup.create(LimitValues(plan.limits.cpus, plan.limits.memory_mb, plan.limits.pids + _AGENT_PIDS))
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
        await disk_image.unfreeze(self._bundle(container_id))
        try:
            cgroup.thaw()
        except OSError as error:
            raise RuntimeFailed(f"container {container_id} stays frozen: {error}") from error

    async def copy_disk(self, bundle: Path, target: Path) -> bool:
        """See Runtime. After FIFREEZE the mounted image is complete, and stays as it is meanwhile."""
        await disk_image.freeze(bundle)
        try:
            await disk_image.copy(bundle / "disk.img", target)
        finally:
            await asyncio.shield(disk_image.unfreeze(bundle))
        return True

    async def export_disk(self, container_id: str, target: Path, limit: int) -> None:
        """See Runtime. `copy_disk` never needs it."""
        raise SnapshotUnsupported("the disk of a crun sandbox is a file of the host")

    def _bundle(self, container_id: str) -> Path:
        """By crun's own record. Raises: RuntimeFailed."""
        try:
            return Path(json.loads((self._state_dir / container_id / "status").read_text())["bundle"])
        except (OSError, ValueError, KeyError) as error:
            raise RuntimeFailed(f"crun keeps no record of container {container_id}: {error!r}") from error

    def written(self, bundle: Path) -> Path | None:
        """See Runtime. Owners are those seen inside."""
        return bundle / "disk" / "upper"

    def set_timer_slack(self, process: ProcessId, seconds: float) -> None:
        """See Runtime. Nothing runs in an idle container: 0.05 % of a core, whatever the slack (measured)."""

    async def processes(self, container_id: str, cgroup: Cgroup) -> Sequence[GuestProcess]:
        """See Runtime. They are processes of the host."""
        return await asyncio.to_thread(crun_processes.among, cgroup.processes())

    async def kill_process(self, container_id: str, process: GuestProcess) -> None:
        """See Runtime."""
        if process.host is not None:
            process.host.kill()

    async def name_host(self, process: ProcessId, name: str) -> None:
        """See Runtime. It takes CAP_SYS_ADMIN, which root in the container lacks."""
        executor = ThreadPoolExecutor(1)  # the thread stays in the container's namespace, so it must not be used again
        try:
            await asyncio.get_running_loop().run_in_executor(executor, namespaces.set_host_name, process.pid, name)
        finally:
            executor.shutdown(wait=False)

    async def forget(self, plan_bundle: Path, container_id: str) -> None:
        """See Runtime. A file system that a dead server froze would outlive its last mount."""
        await disk_image.unfreeze(plan_bundle)
        shutil.rmtree(self._state_dir / container_id, ignore_errors=True)
        for path in sorted(mounts.mount_points(), reverse=True):
            if path.startswith(f"{plan_bundle}/"):
                mounts.unmount(Path(path))

    async def _assemble(self, plan: Plan) -> None:
        """Mount the parts of the writable root; everything lies below the bundle."""
        base = crun_config.first_uid(plan.slot)
        disk, owned = plan.bundle / "disk", plan.bundle / crun_stage.OWNED
        for directory in (disk, owned):
            directory.mkdir(mode=0o700)
        image = plan.bundle / "disk.img"
        if plan.disk is None:
            await disk_image.make(image, plan.limits.disk_mb)
        else:
            await disk_image.copy(plan.disk, image)
        await disk_image.mount(image, disk)
        # On the image, owners are those seen inside: any slot can use it.
        mounts.bind_idmapped(disk, owned, base, read_only=False)
        for number, layer in enumerate(plan.layers):
            lower = plan.bundle / crun_stage.lower(number)
            lower.mkdir(mode=0o700)
            mounts.bind_idmapped(layer, lower, base)

    async def _run(self, plan: Plan, cgroup: Cgroup, arguments: list[str]) -> None:
        """Run crun inside the container's group: it inherits the limits from its first instruction on."""
        join = "".join(f"echo $$ > {path}/cgroup.procs && " for path in cgroup.directories())
        crun = (str(self._binary), "--root", str(self._state_dir), "--cgroup-manager=disabled", *arguments)
        stage = crun_stage.script(self._stage, plan.bundle, plan.closure, len(plan.layers))
        argv = tied(f'{join}{stage} && exec "$@"', *crun)
        await run_detached(argv, "crun run", plan.log, _START_SECONDS, plan.handover)
        # The overlay has taken hold of them.
        for name in (crun_stage.OWNED, *(crun_stage.lower(number) for number in range(len(plan.layers)))):
            mounts.unmount(plan.bundle / name)


def _raise_host_limit(path: Path, value: int) -> None:
    """Let the host's root have more of something, never less."""
    try:
        if int(path.read_text()) < value:
            path.write_text(str(value))
    except OSError as error:
        log.warning("%s stays as it is (%s): with many sandboxes, file watches may run out", path, error)
