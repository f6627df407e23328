"""The sandbox in which a build's steps run, and how what they wrote becomes layers."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from sandpit.contract.errors import NodeError
from sandpit.lib.diskspace import DiskSpace
from sandpit.lib.outputlines import TAIL, OutputLines
from sandpit.node.guests.agent import CommandRefused, Identity
from sandpit.node.runtime import oci
from sandpit.node.sandboxes.trust import GUEST_BUNDLE
from sandpit.protocol.changes import Changes
from sandpit.templates.layers.store import TEMPLATE_STEP, Layer, LayerStore
from sandpit.templates.layers.unpack import Limits
from sandpit.templates.layers.unpacking import UnpackFailed, unpack
from sandpit.templates.steps import directory, expand

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from sandpit.contract.builder import BuildFiles, BuildStep
    from sandpit.node.config import NodeConfig
    from sandpit.node.runtime.base import Runtime
    from sandpit.node.sandboxes.launcher import Sandbox
    from sandpit.templates.steps import Context

_ARCHIVE = "/run/sandpit/build-files.tar"
_ENTRIES = 2_000_000
_NAMES_BYTES = 256 << 20
"""Of what a step wrote, where the server looks at it itself: some 700,000 files."""
_SHELLS = ("/bin/bash", "/usr/bin/bash", "/bin/sh")


class StepFailed(NodeError):
    """A step ended with an error. The message says which."""


class Workshop:
    """One running sandbox of a build."""

    def __init__(
        self, sandbox: Sandbox, runtime: Runtime, store: LayerStore, scratch: Path, config: NodeConfig
    ) -> None:
        """`scratch` is a directory for layers on their way; the sandbox belongs to the caller."""
        self._sandbox = sandbox
        self._runtime = runtime
        self._store = store
        self._scratch = scratch
        self._config = config
        self._space = DiskSpace(config.disk_reserve_mb)
        self._shell: str | None = None
        self._killed = 0
        """For want of memory, before the step that runs."""
        written = runtime.written(sandbox.directory / "bundle")
        self._changes = Changes(written, most_bytes=_NAMES_BYTES) if written is not None else None

    async def open(self) -> None:
        """Make the sandbox ready for steps: what is in it now belongs to no layer. Raises: AgentUnavailable."""
        agent, trust = self._sandbox.agent, self._config.trust
        await agent.claim(Identity("build", self._sandbox.image.template_id, None, trust.env, "root", "/"))
        if trust.bundle:
            await agent.upload(GUEST_BUNDLE, trust.bundle)
        if self._changes is None:
            await agent.look()
        else:
            await self._frozen(self._changes.look)

    def why(self) -> str | None:
        """What else than its own exit status has ended a step, if that is known."""
        if self._kills() > self._killed:
            return f"out of memory: the template has {self._sandbox.image.memory_mb} MiB"
        return None if self._sandbox.process.alive() else self._sandbox.doom or "the sandbox of the build ended"

    def _kills(self) -> int:
        """How many processes were ended for want of memory."""
        try:
            return self._sandbox.memory_kills + self._sandbox.cgroup.usage().out_of_memory_kills
        except OSError:
            return self._killed

    async def run(self, step: BuildStep, context: Context, files: BuildFiles, say: Callable[..., None]) -> None:
        """Run one step. Raises: StepFailed, AgentUnavailable."""
        self._killed = self._kills()
        if step.kind == "RUN":
            user = step.args[1] if len(step.args) > 1 and step.args[1] else context.user
            await self._command(step.args[0], user, context, say)
        elif step.kind in ("COPY", "ADD"):
            await self._copy(step, context, files)
        elif step.kind == "WORKDIR":
            await self.guest("workdir", path=directory(step.args[0], context), user=context.user)
        elif step.kind == "USER":
            await self.guest("user", user=expand(step.args[0], context.env).partition(":")[0])

    async def _command(self, command: str, user: str, context: Context, say: Callable[..., None]) -> None:
        lines = OutputLines(lambda name, line: say(f"[{name}]: {line}"))
        shell = await self._find_shell()
        try:
            code = await self._sandbox.agent.follow(
                [shell, "-l", "-c", command], user=user, output=lines.add, seconds=self._config.build_seconds,
                env=context.env, cwd=context.workdir,
            )  # fmt: skip
        except CommandRefused as error:
            raise StepFailed(f"failed to run command '{command}': command failed: {error.reason}") from error
        finally:
            lines.end()
        if code:
            raise StepFailed(f"failed to run command '{command}': exit status {code}\n{lines.tail}".rstrip())
        await self._sandbox.agent.settle()  # what goes on would write into the next layer

    async def _find_shell(self) -> str:
        """The image's shell. Raises: StepFailed."""
        if self._shell is None:
            for shell in _SHELLS:
                try:
                    status, _ = await self._sandbox.agent.run([shell, "-c", ":"], user="root")
                except CommandRefused:
                    continue
                if status == 0:
                    self._shell = shell
                    break
            else:
                raise StepFailed("the image has no shell (/bin/bash or /bin/sh): RUN steps need one")
        return self._shell

    async def _copy(self, step: BuildStep, context: Context, files: BuildFiles) -> None:
        source, target, owner, mode = (*step.args, "", "")[:4]
        assert step.files_hash is not None
        await self._sandbox.agent.upload(_ARCHIVE, files(step.files_hash))
        await self.guest(
            "copy", archive=_ARCHIVE, source=source, target=expand(target, context.env), workdir=context.workdir,
            user=context.user, owner=owner, mode=mode, add=step.kind == "ADD",
        )  # fmt: skip

    async def guest(self, name: str, **arguments: object) -> None:
        """Run a step of the guest's own (sandpit.guest.template). Raises: StepFailed, AgentUnavailable."""
        command = [*oci.guest_command("template"), json.dumps({"step": name, **arguments})]
        status, output = await self._sandbox.agent.run(command, user="root")
        if status:
            raise StepFailed(output.strip()[-TAIL:] or f"exit status {status}")

    async def keep(self, key: str, parent: str | None, below: Sequence[Path]) -> Layer:
        """Make a layer of what was written since the last one. Raises: StepFailed, AgentUnavailable, LayerError."""
        archive = self._scratch / f"{key}.tar"
        limit = self._sandbox.image.disk_mb << 20
        if self._changes is None:
            with self._space.claimed(self._scratch, 0, "what the step wrote") as claim:
                await self._sandbox.agent.save_changes(archive, limit=limit * 2, claim=claim.write)
        else:
            changes = self._changes

            def write() -> None:
                with archive.open("xb") as file:
                    changes.write(file)

            await self._frozen(write)
        try:
            with self._store.building(key, parent=parent, step=TEMPLATE_STEP, durable=False) as fs:
                await unpack(archive, fs, below, Limits(limit, _ENTRIES))
        except UnpackFailed as error:
            raise StepFailed(f"what it wrote cannot be kept: {error}") from error
        finally:
            archive.unlink(missing_ok=True)
        layer = self._store.find(key)
        if layer is None:
            raise StepFailed("its layer was thrown away: build again")
        return layer

    async def _frozen(self, look: Callable[[], object]) -> None:
        """Look at the host's side of the sandbox's files while nothing in it runs."""
        container, cgroup = self._sandbox.container_id, self._sandbox.cgroup
        await self._runtime.freeze(container, cgroup)
        try:
            await asyncio.to_thread(look)
        finally:
            await asyncio.shield(self._runtime.thaw(container, cgroup))
