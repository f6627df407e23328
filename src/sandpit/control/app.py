"""The control plane as a whole: everything wired, started and stopped in order."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from sandpit.control.accounts.firstkey import first_key
from sandpit.control.accounts.keys import KeyService
from sandpit.control.accounts.quota import SnapshotQuota, TemplateQuota
from sandpit.control.accounts.teams import DEFAULT_SLUG, Identity, TeamService
from sandpit.control.background import Maintenance, Sampler
from sandpit.control.core import Core
from sandpit.control.idempotency import IdempotencyService
from sandpit.control.lifecycle.deadlines import Deadlines
from sandpit.control.lifecycle.directory import LiveDirectory
from sandpit.control.lifecycle.ending import Ending
from sandpit.control.lifecycle.pausing import Pausing
from sandpit.control.lifecycle.queries import SandboxQueries
from sandpit.control.lifecycle.reconcile import reconcile
from sandpit.control.lifecycle.sandboxes import SandboxService
from sandpit.control.lifecycle.sleep import SleepService
from sandpit.control.lifecycle.snapshots import SnapshotService
from sandpit.control.lifecycle.sweeping import Sweeper
from sandpit.control.logs.guests import GuestLogs
from sandpit.control.operations import Operations
from sandpit.control.templates.builds import BuildService
from sandpit.control.templates.cleaning import Cleaner
from sandpit.control.templates.tags import TagService
from sandpit.control.templates.templates import TemplateService
from sandpit.control.templates.uploadlinks import UploadLinks
from sandpit.lib.diskspace import DiskSpace
from sandpit.store.database import Database
from sandpit.store.uploads import Uploads

if TYPE_CHECKING:
    from types import TracebackType

    from sandpit.contract.node import Node
    from sandpit.control.settings import ControlSettings

log = logging.getLogger(__name__)
GRACE_SECONDS = 10.0
"""How long changes that are under way may take when the server ends."""


@dataclass(frozen=True, slots=True)
class Services:
    """What the API's routes call."""

    teams: TeamService
    keys: KeyService
    templates: TemplateService
    sandboxes: SandboxService
    sleep: SleepService
    snapshots: SnapshotService
    queries: SandboxQueries
    quota: SnapshotQuota
    template_quota: TemplateQuota
    builds: BuildService
    tags: TagService
    upload_links: UploadLinks


class ControlPlane:
    """Async context manager: opens the store, starts the node, takes over its sandboxes, runs the background work.

    It must be left by the task that entered it. Sandboxes go on when it ends.
    """

    def __init__(self, settings: ControlSettings, node: Node) -> None:
        self.settings = settings
        self.domain = settings.public_domain()
        """What sandboxes' names end with; the server corrects it when the system has chosen the port."""
        self.database = Database(settings.store_url)
        self.directory = LiveDirectory()
        self.first_key: str | None = None
        """The raw API key that this start has made, because there was none in the key file that works."""
        self.local: Identity | None = None
        """For whom requests run when authentication is off."""
        self._node = node
        self._operations = Operations()
        self._stack = AsyncExitStack()
        teams = TeamService(self.database, settings.limits)
        templates = TemplateService(self.database)
        self._idempotency = IdempotencyService(self.database)
        self._logs = GuestLogs(self.database, node, settings.retention)
        self.directory.toucher = node.touch
        core = Core(self.database, node, self.directory, self._operations, self._logs)
        self._logs.team_of = core.live.team_of
        quota = SnapshotQuota(self.database, node, settings.limits.snapshots_mb)
        template_quota = TemplateQuota(node, settings.limits.templates_mb)
        deadlines, ending = Deadlines(core), Ending(core)
        sandboxes = SandboxService(core, templates, self._idempotency, deadlines, ending)
        sleep = SleepService(core, sandboxes, teams, Pausing(core, quota), deadlines, ending)
        snapshots = SnapshotService(core, sandboxes, templates, quota)
        keys = KeyService(self.database, teams)
        queries = SandboxQueries(self.database, self._logs)
        self._cleaner = Cleaner(self.database, node)
        limits = settings.build
        space = DiskSpace(settings.disk_reserve_mb)
        uploads = Uploads(settings.data_dir / "uploads", limits.upload_mb << 20, limits.uploads_mb << 20, space)
        builds = BuildService(self.database, node, templates, self._cleaner, template_quota, uploads, settings)
        tags = TagService(self.database, templates, builds, self._cleaner)
        links = UploadLinks()
        self.services = Services(
            teams, keys, templates, sandboxes, sleep, snapshots, queries, quota, template_quota, builds, tags, links
        )
        self.sweeper = Sweeper(core)
        self._core = core

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await self._start(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        # Not passed on: a task group would wrap the caller's own exception into a group.
        return await self._stack.__aexit__(None, None, None)

    async def _start(self, stack: AsyncExitStack) -> None:
        stack.push_async_callback(self.database.close)
        await self.database.open()
        stack.push_async_callback(self._logs.flush)
        await self._bootstrap()
        await self._idempotency.recover()
        await self.services.builds.recover()
        sandboxes = self.services.sandboxes
        self._node.on_gone(sandboxes.gone)
        self._node.on_events(self._logs.take)
        found = await self._node.start()
        stack.push_async_callback(self._node.stop, kill_sandboxes=False)
        await self.services.templates.register(self._node.templates())
        stack.push_async_callback(self._operations.close, GRACE_SECONDS)
        stack.push_async_callback(self.services.builds.stop)
        stack.callback(sandboxes.stop)
        await reconcile(self._core, found, self.services.teams)
        await self._cleaner.clean()
        group = await stack.enter_async_context(asyncio.TaskGroup())
        sampler = Sampler(self.database, self._node, sandboxes.live, self.settings.metrics_interval)
        maintenance = Maintenance(
            self.database, self.services.keys, self.services.templates, self._cleaner, self.settings.retention
        )
        for background in (sampler.run(), maintenance.run(), self._logs.run(), self.sweeper.run()):
            stack.callback(group.create_task(background).cancel)

    async def _bootstrap(self) -> None:
        """The first start makes the default team, and a key for it in a file; later ones make what is missing."""
        teams = self.services.teams
        team = await teams.find(DEFAULT_SLUG) or await teams.create("Default", DEFAULT_SLUG)
        self.first_key = await first_key(self.settings.key_file, self.services.keys, team.id)
        if not self.settings.authentication:
            self.local = teams.identity(team)
