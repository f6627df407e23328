"""Template builds: base, steps, start command, snapshot.

The steps of one build run in one sandbox, under its tenant's limits and packet rules, and what each of them wrote becomes a layer. A build
that finds the layers of its first steps in the cache boots from those and goes on behind them; one that finds all of them boots none.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from sandpit.contract.builder import BuildFailed
from sandpit.contract.errors import NodeError
from sandpit.lib.diskspace import DiskSpace
from sandpit.lib.private import passable
from sandpit.lib.turns import FairTurns
from sandpit.node.snapshots import images
from sandpit.node.snapshots.images import Image
from sandpit.templates import steps
from sandpit.templates.garbage import Garbage, Hold
from sandpit.templates.layers.store import LayerError, LayerStore
from sandpit.templates.layers.unpack import Limits
from sandpit.templates.registry.fetch import Puller, Registries
from sandpit.templates.registry.images import Importer
from sandpit.templates.usage import template_bytes
from sandpit.templates.workshop import Workshop

if TYPE_CHECKING:
    from pathlib import Path

    from sandpit.contract.builder import BuildFiles, BuildReport, BuildSpec, BuildStep
    from sandpit.node.config import NodeConfig
    from sandpit.node.sandboxes.building import Parts

log = logging.getLogger(__name__)
_ENTRIES = 2_000_000
"""Files in a layer."""
_DELTA_BYTES = 64 << 20
"""What a template may add to a root file system before it gets one of its own: each restore reads this much more."""
_WORKSHOP_DELTA_BYTES = 512 << 20
"""The same for the sandbox of a build, which unpacks it once."""
_USER = "user"
_ROOM_SECONDS = 60.0
"""How long a step waits for room on the node before it takes its chance."""
"""Whose sandboxes made of an image are (current-protocol 10.3)."""
PROVISION = "provision 1"


@dataclass(slots=True)
class _State:
    """How far a build has come."""

    hold: Hold
    layers: list[str]
    context: steps.Context
    key: str
    root_layers: int
    """How many of the layers are those of a root file system that there is already."""
    image: Image
    """The template that is built on; of an image of a registry: defaults."""
    pending: list[tuple[str, int, BuildStep | None]] = field(default_factory=list)
    """Steps that must run: layer key, number, step; None for the provisioning of an image."""


class Builder:
    """Builds templates on this node."""

    def __init__(self, parts: Parts) -> None:
        """Use the node's parts; they belong to it."""
        self._config = config = parts.config
        self._launcher = parts.launcher
        self._templates = parts.templates
        self._admission = parts.admission
        self._store = LayerStore(config.data_dir)
        puller = Puller(registries(config), parts.slots, parts.firewall, config.build_dir / "tmp")
        limits = Limits(config.image_mb << 20, _ENTRIES)
        self._importer = Importer(self._store, puller, config.build_dir / "known", limits)
        self._turns = FairTurns(config.builds_at_once)
        self._waiting = 0
        self._space = DiskSpace(config.disk_reserve_mb)
        self.garbage = Garbage(config, self._store)

    def prepare(self) -> None:
        """Remove what an earlier process was building. Raises: OSError."""
        shutil.rmtree(self._config.build_dir / "tmp", ignore_errors=True)
        for directory in (self._config.build_dir, self._config.build_dir / "tmp"):
            passable(directory)  # for skopeo's user
        self._store.drop_unsettled()
        self._store.drop_devices()

    async def build(self, spec: BuildSpec, files: BuildFiles, report: BuildReport) -> Image:
        """See Node.build."""
        if self._waiting:
            report(f"Waiting: {self._waiting} builds are before this one")
        self._waiting += 1
        try:
            async with self._turns.turn(spec.tenant):
                return await self._timed(spec, files, report)
        finally:
            self._waiting -= 1

    async def _timed(self, spec: BuildSpec, files: BuildFiles, report: BuildReport) -> Image:
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._config.build_seconds):
                with self.garbage.holding() as hold:
                    build = self._build(spec, hold, files, report)
                    image = await self._space.guard(self._config.written_dirs(), build, "this build")
        except TimeoutError:
            raise BuildFailed(
                f"the build did not end within {self._config.build_seconds:g} s, the limit of this server", "finalize"
            ) from None
        except (LayerError, OSError) as error:
            raise BuildFailed(f"the server could not build this: {error}", "finalize") from error
        report(f"Build finished in {time.monotonic() - began:.1f} s", "debug")
        return image

    async def _build(self, spec: BuildSpec, hold: Hold, files: BuildFiles, report: BuildReport) -> Image:
        for number, step in enumerate(spec.steps, 1):
            steps.check(step, number)
        state = await self._base(spec, hold, report)
        archives = await self._digests(spec, files)
        await self._plan(spec, state, archives, report)
        if state.pending:
            await self._run(spec, state, files, report)
        return await self._finalize(spec, state, report)

    async def _base(self, spec: BuildSpec, hold: Hold, report: BuildReport) -> _State:
        """Where the first step starts from. Raises: BuildFailed."""
        try:
            if spec.base_build_id is not None:
                base = images.load(self._config, spec.base_build_id)
                for layer in base.layers:
                    hold.claim(layer)
                context = steps.Context(dict(base.env), base.user, base.workdir or "/")
                key = steps.base_key(spec.tenant, base.layers, context)
                return _State(hold, list(base.layers), context, key, base.root_layers or len(base.layers), base)
            assert spec.image is not None
            fetched = await self._importer.get(
                spec.image, spec.tenant, spec.registry, hold, lambda text: report(f"[base] {text}", step="base")
            )
        except NodeError as error:
            raise BuildFailed(str(error), "base") from error
        context = steps.Context(dict(fetched.env), _USER, f"/home/{_USER}")
        key = steps.base_key(spec.tenant, (*fetched.layers, PROVISION), context)
        nothing = Image(spec.template_id, "", (), ())
        state = _State(hold, list(fetched.layers), context, key, len(fetched.layers), nothing)
        if spec.force or not self._cached(state, key):
            state.pending.append((key, 0, None))
        return state

    def _cached(self, state: _State, key: str) -> bool:
        """Put a layer of the cache on top, if it is there."""
        layer = state.hold.claim(key)
        if layer is None:
            return False
        if not layer.empty:
            state.layers.append(key)
        return True

    async def _digests(self, spec: BuildSpec, files: BuildFiles) -> dict[str, str]:
        """What the uploaded archives really are, by the hash that clients gave them. Raises: BuildFailed."""
        digests: dict[str, str] = {}
        for number, step in enumerate(spec.steps, 1):
            if step.files_hash is None or step.files_hash in digests:
                continue
            digest = hashlib.sha256()
            try:
                async for chunk in files(step.files_hash):
                    digest.update(chunk)
            except KeyError:
                raise BuildFailed(f"the files of step {number} were not uploaded", str(number)) from None
            digests[step.files_hash] = digest.hexdigest()
        return digests

    async def _plan(self, spec: BuildSpec, state: _State, archives: dict[str, str], report: BuildReport) -> None:
        """Take from the cache what is there, and note what must run."""
        forced, context = spec.force, state.context
        for number, step in enumerate(spec.steps, 1):
            forced = forced or step.force
            archive = archives[step.files_hash] if step.files_hash else None
            state.key = steps.step_key(state.key, step, context, archive)
            try:
                context = steps.after(step, context)
            except steps.TooLong as error:
                raise BuildFailed(f"step {number}, {step.kind}: {error}", str(number)) from None
            await asyncio.sleep(0)  # each takes milliseconds at most, and there may be a thousand
            if forced or state.pending or (step.kind != "ENV" and not self._cached(state, state.key)):
                state.pending.append((state.key, number, step))
            else:
                state.context = context
                report(f"CACHED [builder {number}/{len(spec.steps)}] {steps.shown(step)}", step=str(number))

    async def _run(self, spec: BuildSpec, state: _State, files: BuildFiles, report: BuildReport) -> None:
        """Run the steps that are left, in one sandbox. Raises: BuildFailed."""
        image = replace(
            self._image(spec, state, _WORKSHOP_DELTA_BYTES),
            build_id=f"build-{spec.build_id}",
            user="root",
            workdir="/",
            start_cmd=None,
            ready_cmd=None,
        )
        scratch = self._config.build_dir / "tmp" / spec.build_id
        scratch.mkdir(parents=True, mode=0o700)
        try:
            async with self._workshop(spec, image, scratch) as workshop:
                for key, number, step in state.pending:
                    await self._step(spec, state, workshop, key, number, step, files, report)
        finally:
            await asyncio.to_thread(shutil.rmtree, scratch, ignore_errors=True)

    @asynccontextmanager
    async def _workshop(self, spec: BuildSpec, image: Image, scratch: Path) -> AsyncIterator[Workshop]:
        source = await self._templates.stack(image)
        await self._admission.room(image, _ROOM_SECONDS)
        async with self._admission.turn(image, spec.tenant) as release:
            sandbox = await self._launcher.launch(source, begun=release)
        try:
            self._launcher.wake(sandbox)
            workshop = Workshop(sandbox, self._launcher.runtime_of(image), self._store, scratch, self._config)
            await workshop.open()
            yield workshop
        finally:
            await asyncio.shield(self._launcher.discard(sandbox))

    async def _step(
        self, spec: BuildSpec, state: _State, workshop: Workshop, key: str, number: int, step: BuildStep | None,
        files: BuildFiles, report: BuildReport,
    ) -> None:  # fmt: skip
        """Run one step and keep what it wrote. Raises: BuildFailed."""
        name = str(number) if step is not None else "base"
        try:
            if step is None:
                await workshop.guest("provision", user=_USER)
            else:
                prefix = f"[builder {number}/{len(spec.steps)}]"
                report(f"{prefix} {steps.shown(step)}", step=name)
                await workshop.run(
                    step, state.context, files, lambda text, level="info": report(f"{prefix} {text}", level, name)
                )
                state.context = steps.after(step, state.context)
            if step is None or step.kind != "ENV":
                state.hold.claim(key)
                below = [self._store.root / layer / "fs" for layer in state.layers]
                layer = await workshop.keep(key, state.layers[-1] if state.layers else None, below)
                if not layer.empty:
                    state.layers.append(key)
        except BuildFailed:
            raise
        except NodeError as error:
            why = workshop.why() or str(error)
            raise BuildFailed(f"step {name}, {steps.shown(step) if step else 'base'}, failed: {why}", name) from error

    def _image(self, spec: BuildSpec, state: _State, delta_bytes: int) -> Image:
        """The template as its steps leave it. A start command of the base goes on unless it is replaced."""
        added = [self._store.find(key) for key in state.layers[state.root_layers :]]
        small = sum(layer.bytes for layer in added if layer is not None) <= delta_bytes
        base, own = state.image, spec.start_cmd is not None or spec.ready_cmd is not None
        return Image(
            spec.template_id,
            spec.build_id,
            (spec.name,),
            tuple(state.layers),
            dict(state.context.env),
            user=state.context.user,
            workdir=state.context.workdir,
            start_cmd=spec.start_cmd or None if own else base.start_cmd,
            start_user=None if own else base.start_user or (base.user if base.start_cmd else None),
            ready_cmd=spec.ready_cmd or None if own else base.ready_cmd,
            cpu_count=spec.cpu_count or self._config.cpu_count,
            memory_mb=spec.memory_mb or self._config.memory_mb,
            disk_mb=base.disk_mb,
            pids=base.pids,
            runtime=base.runtime,
            root_layers=state.root_layers if small else 0,
            owner=spec.tenant,
        )

    async def _finalize(self, spec: BuildSpec, state: _State, report: BuildReport) -> Image:
        """Take the snapshot that sandboxes start from. Raises: BuildFailed."""
        image = self._image(spec, state, _DELTA_BYTES)
        image.write(self._config.images_dir)
        try:
            report("Taking the template's snapshot", "debug", "finalize")
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.to_thread(self._store.settle, set(state.hold.keys)))
                group.create_task(self._templates.make(image, lambda text: report(text, step="finalize")))
        except ExceptionGroup as errors:
            self.remove(spec.build_id)
            error = errors.exceptions[0]
            if isinstance(error, NodeError):
                raise BuildFailed(f"the template does not start: {error}", "finalize") from error
            raise error from None
        except BaseException:
            self.remove(spec.build_id)
            raise
        return image

    def collect(self) -> None:
        """Throw away layers that nothing needs. Raises: OSError, ValueError."""
        self.garbage.collect()

    def used(self, owner: str) -> int:
        """Bytes that a team's builds take up. Blocking. Raises: OSError, NodeError."""
        return template_bytes(self._config, self._store, owner)

    def remove(self, build_id: str) -> None:
        """Forget a build; its layers go when nothing else needs them."""
        shutil.rmtree(self._config.images_dir / build_id, ignore_errors=True)
        self._templates.forget(build_id)


def registries(config: NodeConfig) -> Registries:
    """The node's settings about registries."""
    return Registries(dict(config.registry_mirrors), config.insecure_registries, config.image_mb << 20)
