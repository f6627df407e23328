"""Templates ready to start from: root file system mounted, snapshot taken."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import time
from dataclasses import replace
from pathlib import Path

from sandpit.contract.errors import NodeError
from sandpit.lib.diskspace import DiskSpace
from sandpit.lib.private import write_private
from sandpit.node.config import NodeConfig
from sandpit.node.guests.agent import AgentUnavailable, Identity
from sandpit.node.guests.quiet import quiesce
from sandpit.node.host.processors import processor_features
from sandpit.node.runtime.selftest import self_test
from sandpit.node.sandboxes import start_command
from sandpit.node.sandboxes.launcher import Launcher, Sandbox, Source
from sandpit.node.sandboxes.meter import snapshot_bytes
from sandpit.node.sandboxes.start_command import Report, StartCommand, unless_it_fails
from sandpit.node.sandboxes.trust import GUEST_BUNDLE
from sandpit.node.snapshots import images
from sandpit.node.snapshots.deltas import delta
from sandpit.node.snapshots.images import Image

log = logging.getLogger(__name__)

_READY_TIMEOUT = 600.0
_START_SECONDS = _READY_TIMEOUT + 60
"""How long a start command is followed; it goes on."""
_MANIFEST = "manifest.json"
"""Its presence makes a snapshot complete."""
_SECRET_FILE = "secret"  # noqa: S105 - a name
"""What the agent in the snapshot's memory knows the node by; mode 0600."""
_SECRET = re.compile(r"[0-9a-f]{64}")
_RUNTIME_MB = 24
_REHEARSAL_SECONDS = 5.0
_SETTLE_SECONDS = 15.0
"""How long a start command without a ready command gets before the snapshot (documentation of 2024)."""


class Templates:
    """Turns template builds into things that start in milliseconds."""

    def __init__(self, config: NodeConfig, launcher: Launcher, closure: Path) -> None:
        """Use the given parts; they belong to the caller."""
        self._config = config
        self._launcher = launcher
        self._closure = closure
        self._space = DiskSpace(config.disk_reserve_mb)
        self._sources: dict[str, Source] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def source(self, build_id: str) -> Source:
        """What to start a build's sandboxes from; makes its snapshot if there is none. Raises: UnknownTemplateBuild, NodeError."""
        if build_id not in self._sources:
            async with self._locks.setdefault(build_id, asyncio.Lock()):
                if build_id not in self._sources:
                    prepare = self._prepare(build_id)
                    guarded = self._space.guard(self._config.written_dirs(), prepare, "the template")
                    self._sources[build_id] = await guarded
        return self._with_its_secret(build_id)

    def _with_its_secret(self, build_id: str) -> Source:
        """A source as its snapshot is now: whoever replaced the files has replaced the secret in their memory, too."""
        source = self._sources[build_id]
        if source.snapshot is not None:
            secret = _secret_of(source.snapshot)
            if secret not in (None, source.secret):
                source = self._sources[build_id] = replace(source, secret=secret)
        return source

    async def make(self, image: Image, report: Report) -> Source:
        """Make a new build startable, and report what its start command prints. Raises: NodeError, for what would fail every sandbox."""
        async with self._locks.setdefault(image.build_id, asyncio.Lock()):
            self._sources[image.build_id] = await self._prepare(image.build_id, report)
        return self._sources[image.build_id]

    def forget(self, build_id: str) -> None:
        """Drop a build that nobody starts from any more, with its snapshot."""
        self._sources.pop(build_id, None)
        self._locks.pop(build_id, None)
        shutil.rmtree(self._config.snapshots_dir / build_id, ignore_errors=True)

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

    async def stack(self, image: Image) -> Source:
        """What to boot an image from that has no description on disk and no snapshot. Raises: NodeError."""
        layers = tuple(images.layer_paths(self._config, image))
        runtime = self._launcher.runtime_of(image)
        below, above = images.split(image, layers)
        root = await runtime.root(below, self._config.roots_dir)
        disk = None
        if above and not runtime.stacks_layers:
            disk = await asyncio.to_thread(delta, above, self._config.roots_dir)
        return Source(image, layers, root, self._closure, None, disk=disk)

    async def _prepare(self, build_id: str, report: Report | None = None) -> Source:
        image = images.load(self._config, build_id)
        cold = await self.stack(image)
        if not self._launcher.runtime_of(image).snapshots():
            if report is not None:
                await self._try_out(cold, report)
            return cold
        snapshot = self._config.snapshots_dir / build_id / self._key(cold)
        if not (snapshot / _MANIFEST).exists() or (secret := _secret_of(snapshot)) is None:
            secret = await self._take(cold, snapshot, report)
        return replace(cold, snapshot=snapshot, secret=secret)

    async def _try_out(self, cold: Source, report: Report) -> None:
        """Where there are no snapshots: see once that the template starts. Raises: NodeError."""
        sandbox = await self._launcher.launch(cold)
        try:
            await self.start_up(sandbox, report)
        finally:
            await asyncio.shield(self._launcher.discard(sandbox))

    async def start_up(self, sandbox: Sandbox, report: Report | None = None) -> None:
        """Bring a freshly booted sandbox to where its template's snapshot is taken. Raises: NodeError."""
        image = sandbox.image
        self._launcher.wake(sandbox)
        if self._config.trust.bundle:
            await sandbox.agent.upload(GUEST_BUNDLE, self._config.trust.bundle)
        await self._claim(sandbox)
        user = image.start_user or image.user
        if image.start_cmd is None:
            if image.ready_cmd is not None and report is not None:
                await self._until_ready(sandbox, user, None)
            return
        if report is None:
            await sandbox.agent.start(image.start_cmd, user=user, tag=start_command.TAG)
            await self._until_ready(sandbox, user, None)
            return
        report(f"Running start command: {image.start_cmd}")
        started = StartCommand(report)
        following = asyncio.create_task(started.follow(sandbox, image.start_cmd, user, _START_SECONDS))
        try:
            report(f"Waiting for template to be ready: {image.ready_cmd or f'sleep {_SETTLE_SECONDS:g}'}")
            await self._until_ready(sandbox, user, following)
            report("Template is ready")
        finally:
            following.cancel()  # the command itself goes on
            await asyncio.gather(following, return_exceptions=True)

    async def _until_ready(self, sandbox: Sandbox, user: str, start: asyncio.Task[int] | None) -> None:
        """Wait for the ready command to succeed, and for `start` not to fail meanwhile. Raises: NodeError."""
        image = sandbox.image
        deadline = time.monotonic() + (_SETTLE_SECONDS if image.ready_cmd is None else _READY_TIMEOUT)
        output = ""
        while (left := deadline - time.monotonic()) > 0:
            if image.ready_cmd is not None:
                run = sandbox.agent.run(image.ready_cmd, user=user, seconds=left)
                status, output = await unless_it_fails(start, run)
                if status == 0:
                    return
            await unless_it_fails(start, asyncio.sleep(0.25))
        if image.ready_cmd is not None:
            raise NodeError(f"template {image.names} was not ready after {_READY_TIMEOUT:g} s: {output[-1000:]}")

    async def _claim(self, sandbox: Sandbox) -> None:
        """Give a sandbox without an owner the identity of its template."""
        image = sandbox.image
        env = {**self._config.trust.env, **image.env}
        await sandbox.agent.claim(Identity("template", image.template_id, None, env, image.user, image.workdir))

    async def rehearse(self, sandbox: Sandbox) -> None:
        """Let a waiting sandbox do what its owner will do first: be claimed, run a command, use the template's service.

        What a restored process touches for the first time costs a fault for every page. Done ahead, this takes a quarter off the time from
        create to the first command at best, a sixth in the median (24 runs, machine busy). Raises: AgentUnavailable.
        """
        await self._claim(sandbox)
        image = sandbox.image
        command = f"bash -l -c : ; {image.ready_cmd or ':'}"
        with contextlib.suppress(AgentUnavailable):  # an image without this user, for one, still starts
            await sandbox.agent.run(command, user=image.user, seconds=_REHEARSAL_SECONDS)

    def _key(self, cold: Source) -> str:
        """Names a snapshot by all that it depends on."""
        image = cold.image
        runtime = self._launcher.runtime_of(image)
        parts = json.dumps(
            [
                runtime.name,
                runtime.release(),
                self._closure.name,
                image.layers,
                cold.root.name,
                processor_features(),
                self._config.trust.key(),
            ]
        )
        return hashlib.sha256(parts.encode()).hexdigest()[:24]

    async def _take(self, cold: Source, snapshot: Path, report: Report | None = None) -> str:
        """Boot, run the start command, wait until ready, checkpoint. The snapshot appears whole or not at all. Returns its secret."""
        began = time.monotonic()
        # A name of its own: a command of a server that was killed may still be writing below the last one.
        staging = snapshot.with_name(f"{snapshot.name}.{secrets.token_hex(4)}.new")
        # Snapshots of the same build for another runtime, closure or processor: nobody restores them any more.
        await asyncio.to_thread(shutil.rmtree, snapshot.parent, ignore_errors=True)
        staging.mkdir(parents=True, mode=0o700)
        sandbox = await self._launcher.launch(cold)
        try:
            await self.start_up(sandbox, report)
            runtime = self._launcher.runtime_of(cold.image)
            await self_test(sandbox, runtime, self._config.data_dir / "selftest")
            await self.rehearse(sandbox)
            await quiesce(sandbox)
            size = snapshot_bytes(sandbox, memory=True)
            with self._space.claimed(staging, size, "the template's snapshot"):
                await runtime.checkpoint(sandbox.container_id, staging, leave_running=False)
            write_private(staging / _SECRET_FILE, sandbox.agent.secret.current)
        finally:
            await asyncio.shield(self._launcher.discard(sandbox))
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
        return sandbox.agent.secret.current


def _secret_of(snapshot: Path) -> str | None:
    """What the agent in a snapshot's memory knows the node by; None if that is gone or damaged."""
    try:
        secret = (snapshot / _SECRET_FILE).read_text()
    except (OSError, UnicodeDecodeError):
        return None
    return secret if _SECRET.fullmatch(secret) else None


def _sync(directory: Path) -> None:
    """Make files durable before the rename that publishes them."""
    for path in (*directory.iterdir(), directory):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
