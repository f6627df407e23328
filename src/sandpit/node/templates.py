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

log = logging.getLogger(__name__)

START_COMMAND_TAG = "start_cmd"
_READY_TIMEOUT = 600.0
_QUIET_SECONDS = 0.1
_SETTLE_SECONDS = 15.0
"""How long a start command without a ready command gets before the snapshot (documentation of 2024)."""


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

    async def _prepare(self, build_id: str) -> Source:
        image = images.load(self._config, build_id)
        layers = tuple(images.layer_paths(self._config, image))
        root = await self._launcher.runtime_of(image).root(layers, self._config.roots_dir)
        cold = Source(image, layers, root, self._closure, None)
        if not self._launcher.runtime_of(image).snapshots():
            return cold
        snapshot = self._config.snapshots_dir / build_id / self._key(image)
        if not (snapshot / "manifest.json").exists():
            await self._take(cold, snapshot)
        return Source(image, layers, root, self._closure, snapshot)

    def _key(self, image: Image) -> str:
        """Names a snapshot by all that it depends on."""
        runtime = self._launcher.runtime_of(image)
        parts = json.dumps([runtime.name, runtime.release(), self._closure.name, image.layers, _cpu_features()])
        return hashlib.sha256(parts.encode()).hexdigest()[:24]

    async def _take(self, cold: Source, snapshot: Path) -> None:
        """Boot, run the start command, wait until ready, checkpoint. The snapshot appears whole or not at all."""
        began = time.monotonic()
        staging = snapshot.with_name(f"{snapshot.name}.new")
        await asyncio.to_thread(shutil.rmtree, staging, ignore_errors=True)
        staging.mkdir(parents=True)
        sandbox = await self._launcher.launch(cold)
        try:
            await start_up(sandbox)
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
        (staging / "manifest.json").write_text(json.dumps(manifest))
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


async def start_up(sandbox: Sandbox) -> None:
    """Bring a freshly booted sandbox to where its template's snapshot is taken. Raises: NodeError."""
    image = sandbox.image
    await sandbox.agent.claim(Identity("template", image.template_id, None, image.env, image.user, image.workdir))
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
