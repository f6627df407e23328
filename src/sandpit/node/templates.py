"""Templates ready to start from: root file system mounted, snapshot taken."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import shutil
import time
from pathlib import Path

from sandpit.node import images
from sandpit.node.agent import Identity
from sandpit.node.config import NodeConfig
from sandpit.node.contract import NodeError
from sandpit.node.images import Image
from sandpit.node.launcher import Launcher, Sandbox, Source
from sandpit.node.trust import GUEST_BUNDLE

log = logging.getLogger(__name__)

START_COMMAND_TAG = "start_cmd"
_READY_TIMEOUT = 600.0
_MANIFEST = "manifest.json"
"""Its presence makes a snapshot complete."""
_RUNTIME_MB = 24
_QUIET_SECONDS = 0.1
_SETTLE_SECONDS = 15.0
"""How long a start command without a ready command gets before the snapshot (documentation of 2024)."""


_SELF_TEST = """
for round in 1 2 3; do
  for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do sleep 0.05 & done; wait
  [ "$(seq 2000 | sort -rn | tail -n 1 | tr -d '\\n' | wc -c)" -eq 1 ] || exit 1
done
"""


class Templates:
    """Turns template builds into things that start in milliseconds."""

    def __init__(self, config: NodeConfig, launcher: Launcher, closure: Path) -> None:
        """Use the given parts; they belong to the caller."""
        self._config = config
        self._launcher = launcher
        self._closure = closure
        self._sources: dict[str, Source] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def source(self, build_id: str) -> Source:
        """What to start a build's sandboxes from; makes its snapshot if there is none. Raises: UnknownTemplateBuild, NodeError."""
        if build_id in self._sources:
            return self._sources[build_id]
        async with self._locks.setdefault(build_id, asyncio.Lock()):
            if build_id not in self._sources:
                self._sources[build_id] = await self._prepare(build_id)
        return self._sources[build_id]

    def distrust(self, source: Source) -> None:
        """Forget a snapshot that did not restore; the next start takes a new one."""
        if self._sources.get(source.image.build_id) is not source or source.snapshot is None:
            return
        del self._sources[source.image.build_id]
        (source.snapshot / _MANIFEST).unlink(missing_ok=True)

    def resident_mb(self, build_id: str) -> int:
        """Memory, in MiB, that a sandbox of this build holds before anybody uses it: its snapshot, and the runtime's own."""
        source = self._sources.get(build_id)
        if source is None or source.snapshot is None:
            return _RUNTIME_MB
        manifest = json.loads((source.snapshot / _MANIFEST).read_text())
        return _RUNTIME_MB + (int(manifest["bytes"]) >> 20)

    async def _prepare(self, build_id: str) -> Source:
        image = images.load(self._config, build_id)
        layers = tuple(images.layer_paths(self._config, image))
        root = await self._launcher.runtime_of(image).root(layers, self._config.roots_dir)
        cold = Source(image, layers, root, self._closure, None)
        if not self._launcher.runtime_of(image).snapshots():
            return cold
        snapshot = self._config.snapshots_dir / build_id / self._key(image)
        if not (snapshot / _MANIFEST).exists():
            await self._take(cold, snapshot)
        return Source(image, layers, root, self._closure, snapshot)

    async def start_up(self, sandbox: Sandbox) -> None:
        """Bring a freshly booted sandbox to where its template's snapshot is taken. Raises: NodeError."""
        image = sandbox.image
        if self._config.trust.bundle:
            await sandbox.agent.upload(GUEST_BUNDLE, self._config.trust.bundle)
        env = {**self._config.trust.env, **image.env}
        await sandbox.agent.claim(Identity("template", image.template_id, None, env, image.user, image.workdir))
        user = image.start_user or image.user
        if image.start_cmd is None:
            return
        await sandbox.agent.start(image.start_cmd, user=user, tag=START_COMMAND_TAG)
        if image.ready_cmd is None:
            await asyncio.sleep(_SETTLE_SECONDS)
            return
        deadline = time.monotonic() + _READY_TIMEOUT
        while True:
            status, output = await sandbox.agent.run(image.ready_cmd, user=user)
            if status == 0:
                return
            if time.monotonic() > deadline:
                raise NodeError(f"template {image.names} was not ready after {_READY_TIMEOUT:g} s: {output[-1000:]}")
            await asyncio.sleep(0.25)

    async def _self_test(self, sandbox: Sandbox) -> None:
        """Refuse a runtime that cannot run real programs: some builds start, and fail with the first background job. Raises: NodeError."""
        release = self._launcher.runtime_of(sandbox.image).release()
        passed = self._config.data_dir / "selftest" / release
        if passed.exists():
            return
        status, output = await sandbox.agent.run(_SELF_TEST, user="root")
        if status:
            raise NodeError(
                f"the {sandbox.runtime} release {release[:12]} does not run programs reliably (self-test: status {status}, "
                f"{output.strip()[-500:]}): install another release, see `sandpit doctor`"
            )
        passed.parent.mkdir(parents=True, exist_ok=True)
        passed.touch()

    def _key(self, image: Image) -> str:
        """Names a snapshot by all that it depends on."""
        runtime = self._launcher.runtime_of(image)
        parts = json.dumps(
            [
                runtime.name,
                runtime.release(),
                self._closure.name,
                image.layers,
                _cpu_features(),
                self._config.trust.key(),
            ]
        )
        return hashlib.sha256(parts.encode()).hexdigest()[:24]

    async def _take(self, cold: Source, snapshot: Path) -> None:
        """Boot, run the start command, wait until ready, checkpoint. The snapshot appears whole or not at all."""
        began = time.monotonic()
        staging = snapshot.with_name(f"{snapshot.name}.new")
        # Snapshots of the same build for another runtime, closure or processor: nobody restores them any more.
        await asyncio.to_thread(shutil.rmtree, snapshot.parent, ignore_errors=True)
        staging.mkdir(parents=True)
        sandbox = await self._launcher.launch(cold)
        try:
            await self.start_up(sandbox)
            await self._self_test(sandbox)
            runtime = self._launcher.runtime_of(cold.image)
            await _quiesce(sandbox)
            await runtime.checkpoint(sandbox.container_id, staging, leave_running=False)
        finally:
            await self._launcher.end(sandbox)
            await self._launcher.tidy(sandbox)
        size = sum(path.stat().st_size for path in staging.iterdir())
        manifest = {
            "build_id": cold.image.build_id,
            "runtime": runtime.name,
            "release": runtime.release(),
            "bytes": size,
        }
        (staging / _MANIFEST).write_text(json.dumps(manifest))
        await asyncio.to_thread(_sync, staging)
        staging.rename(snapshot)
        log.info("snapshot of %s: %d MiB in %.1f s", cold.image.names, size >> 20, time.monotonic() - began)


async def _quiesce(sandbox: Sandbox) -> None:
    """Leave no connection open that the checkpoint would cut.

    gVisor saves an epoll instance's list of ready descriptors while it cuts connections; an event in between makes the restored instance
    deaf (google/gvisor#13920, #14147). Without connections there is no event.
    """
    await sandbox.agent.close()
    await asyncio.sleep(_QUIET_SECONDS)


def _sync(directory: Path) -> None:
    """Make files durable before the rename that publishes them."""
    for path in (*directory.iterdir(), directory):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _cpu_features() -> str:
    """What this processor can do: a snapshot taken with more does not run with less."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("flags", "Features")):
            return line.partition(":")[2].strip()
    return ""
