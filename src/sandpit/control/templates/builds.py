"""Template builds: asked for, started, watched, cancelled (current-protocol 10)."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from sqlalchemy import select, update
from sqlalchemy.exc import SQLAlchemyError

from sandpit.contract.builder import BuildFailed, BuildSpec
from sandpit.contract.errors import NodeError
from sandpit.control.errors import ControlError, InvalidRequestError, LimitReachedError, NotFoundError
from sandpit.control.logs.builds import LiveLog, selected
from sandpit.control.templates import buildrecords
from sandpit.control.templates.buildrequests import check_name, check_size, check_start, check_tags
from sandpit.lib.ledger import Ledger, OverLimit
from sandpit.store.models import Build, BuildLog
from sandpit.store.types import utc_now

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from sandpit.contract.node import Node, TemplateImage
    from sandpit.control.accounts.quota import TemplateQuota
    from sandpit.control.accounts.teams import Identity
    from sandpit.control.settings import ControlSettings
    from sandpit.control.templates.buildrecords import Requested
    from sandpit.control.templates.buildrequests import BuildStart, NewBuild
    from sandpit.control.templates.cleaning import Cleaner
    from sandpit.control.templates.templates import Resolved, TemplateService
    from sandpit.lib.ledger import Reservation
    from sandpit.store.database import Database
    from sandpit.store.uploads import Uploads

log = logging.getLogger(__name__)
MAX_LOGS = 100
_FLUSH_SECONDS = 1.0
_REASON_LINES = 20
_END_RETRY_SECONDS, _END_ATTEMPTS = 5.0, 120
"""Of writing down that a build has ended; after that the next start does."""
LOST = "the server ended while the template was built: build it again"
CANCELLED = "the build was cancelled"


@dataclass(frozen=True, slots=True)
class BuildStatus:
    """A build as it is now, with a part of its log."""

    build: Build
    lines: list[BuildLog]
    reason_lines: list[BuildLog]
    """The end of the log of the step that failed."""


@dataclass(slots=True)
class _Running:
    team_id: str
    template_id: str
    log: LiveLog
    slot: Reservation
    """Its place among the team's builds."""
    task: asyncio.Task[None] = field(init=False)


class BuildService:
    """Builds templates for teams. A build goes on when its caller goes away; the server's end ends it."""

    def __init__(
        self,
        database: Database,
        node: Node,
        templates: TemplateService,
        cleaner: Cleaner,
        quota: TemplateQuota,
        uploads: Uploads,
        settings: ControlSettings,
    ) -> None:
        self._database = database
        self._node = node
        self._templates = templates
        self._cleaner = cleaner
        self._quota = quota
        self.uploads = uploads
        self.limits = settings.build
        self._defaults = settings.limits
        self._running: dict[str, _Running] = {}
        self._slots = Ledger()

    async def recover(self) -> None:
        """At start: builds that the last server did not finish have failed."""
        self.uploads.clear_unfinished()
        async with self._database.write() as session:
            values = {"status": "error", "reason": {"message": LOST}, "finished_at": utc_now()}
            await session.execute(update(Build).where(Build.status == "building").values(values))

    async def stop(self) -> None:
        """End all builds; they count as failed."""
        for running in list(self._running.values()):
            running.task.cancel(LOST)
        await asyncio.gather(*(running.task for running in self._running.values()), return_exceptions=True)

    async def request(self, identity: Identity, new: NewBuild) -> Requested:
        """A build to be started, of a new template or of the one that has the name.

        Raises: InvalidRequestError, ForbiddenError, LimitReachedError.
        """
        identity.check_may_create()
        ref = check_name(identity, new.name)
        tags = check_tags(ref, new.tags)
        check_size(new.cpu_count, new.memory_mb, self.limits)
        await self._quota.check(identity.team_id)  # before files are uploaded, and again before they are used
        new = replace(
            new,
            cpu_count=new.cpu_count or self._defaults.cpu_count,
            memory_mb=new.memory_mb or self._defaults.memory_mb,
        )
        requested = await self._database.run(lambda session: buildrecords.new_build(session, identity, ref, tags, new))
        self._templates.changed()
        return requested

    async def start(self, identity: Identity, template_id: str, build_id: str, start: BuildStart) -> None:
        """Begin a requested build. Raises: InvalidRequestError, NotFoundError, LimitReachedError."""
        build = await self._find(identity, template_id, build_id)
        check_start(start)
        base = await self._base(identity, start)
        with self._slot(identity.team_id) as slot:
            await self._quota.check(identity.team_id)
            name, size = await self._database.run(lambda session: buildrecords.begin_build(session, build.id))
            spec = BuildSpec(
                template_id=build.template_id,
                build_id=build.id,
                tenant=identity.team_id,
                name=name,
                base_build_id=base.build.id if base is not None else None,
                image=None if base is not None else start.image,
                registry=start.registry,
                steps=start.steps,
                start_cmd=start.start_cmd,
                ready_cmd=start.ready_cmd,
                cpu_count=size[0],
                memory_mb=size[1],
                force=start.force,
            )
            running = _Running(
                identity.team_id, build.template_id, LiveLog(build.id, self.limits.log_lines), slot.hand_over()
            )
            self._running[build.id] = running
            running.task = asyncio.create_task(self._build(spec, running.log), name=f"build {build.id}")

    def _slot(self, team_id: str) -> Reservation:
        """A place among a team's builds that run or wait, before anything is awaited. Raises: LimitReachedError."""
        try:
            return self._slots.reserve(team_id, limit=self.limits.waiting)
        except OverLimit:
            raise LimitReachedError(
                f"the team has {self.limits.waiting} builds under way, its limit: wait for one to end"
            ) from None

    async def _base(self, identity: Identity, start: BuildStart) -> Resolved | None:
        """The template to build on; some names of images stand for one. Raises: InvalidRequestError, NotFoundError."""
        text = start.base_template
        if text is None and start.image is not None:
            bare = start.image.removeprefix("docker.io/")
            text = self.limits.images.get(bare) or self.limits.images.get(bare.removesuffix(":latest"))
        if text is None:
            return None
        base = await self._templates.resolve(identity, text)
        if base.build.base_build_id is not None:
            raise InvalidRequestError(
                f"'{text}' is a snapshot of a sandbox: templates are built on images and templates"
            )
        return base

    async def status(
        self,
        identity: Identity,
        template_id: str,
        build_id: str,
        *,
        offset: int = 0,
        limit: int = MAX_LOGS,
        level: str | None = None,
    ) -> BuildStatus:
        """How a build goes, with `limit` lines of its log from the `offset`-th on.

        Raises: NotFoundError (template), InvalidRequestError (build).
        """
        if offset < 0 or not 1 <= limit <= MAX_LOGS:
            raise InvalidRequestError(f"logsOffset must not be negative, and limit from 1 to {MAX_LOGS}")
        # Before its row is read: a build that ends meanwhile has all of its log in memory still.
        running = self._running.get(build_id)
        await self._templates.own(identity, template_id)
        try:
            build = await self._find(identity, template_id, build_id)
        except NotFoundError as error:
            raise InvalidRequestError(error.message) from error
        lines = running.log.lines if running is not None else await self._stored(build_id)
        failed = (build.reason or {}).get("step")
        why = [line for line in lines if line.step == failed][-_REASON_LINES:] if failed else []
        return BuildStatus(build, selected(lines, offset, limit, level), why)

    async def cancel(self, identity: Identity, template_id: str, build_id: str) -> None:
        """End a build that runs or waits; one that has ended stays as it is. Raises: NotFoundError."""
        build = await self._find(identity, template_id, build_id)
        await self.cancel_builds({build.id})

    async def cancel_builds(self, build_ids: set[str]) -> None:
        """Returns when they have ended."""
        found = [running for build_id, running in self._running.items() if build_id in build_ids]
        for running in found:
            running.task.cancel(CANCELLED)
        await asyncio.gather(*(running.task for running in found), return_exceptions=True)

    async def _find(self, identity: Identity, template_id: str, build_id: str) -> Build:
        """A team's own build. Raises: NotFoundError, InvalidRequestError."""
        template = await self._templates.own(identity, template_id)

        def read(session: Session) -> Build | None:
            return session.scalar(select(Build).where(Build.id == build_id, Build.template_id == template.id))

        build = await self._database.run(read)
        if build is None:
            raise NotFoundError(f"build '{build_id[:100]}' of template '{template_id[:100]}' not found")
        return build

    async def _stored(self, build_id: str) -> list[BuildLog]:
        query = select(BuildLog).where(BuildLog.build_id == build_id).order_by(BuildLog.number)
        return await self._database.run(lambda session: list(session.scalars(query)))

    async def _build(self, spec: BuildSpec, live: LiveLog) -> None:
        """One build from its start to its end, whichever that is."""
        flushing = asyncio.create_task(self._flush_often(live))
        outcome: TemplateImage | BuildFailed
        try:
            async with self._quota.reserve(spec.tenant):
                outcome = await self._node.build(spec, lambda name: self.uploads.read(spec.tenant, name), live)
        except BuildFailed as error:
            outcome = error
        except ControlError as error:
            outcome = BuildFailed(error.message, "finalize")
        except NodeError as error:
            outcome = BuildFailed(str(error), "finalize")
        except asyncio.CancelledError as error:
            outcome = BuildFailed(str(error) or CANCELLED, "finalize")
        except Exception as error:  # a defect of ours must not leave the build "building" for ever
            log.exception("build %s failed", spec.build_id)
            outcome = BuildFailed(f"the server failed to build this: {type(error).__name__}, see its log", "finalize")
        flushing.cancel()
        await asyncio.gather(flushing, return_exceptions=True)
        await asyncio.shield(asyncio.ensure_future(self._end(spec, live, outcome)))

    async def _end(self, spec: BuildSpec, live: LiveLog, outcome: TemplateImage | BuildFailed) -> None:
        if isinstance(outcome, BuildFailed):
            live(outcome.message, "error", outcome.step)
        known = await self._write_end(spec, live, outcome)
        if (running := self._running.pop(spec.build_id, None)) is not None:
            running.slot.release()
        self._templates.changed()
        if not known and not isinstance(outcome, BuildFailed):
            log.warning("build %s is of no use: its template was deleted meanwhile", spec.build_id)
        await self._cleaner.clean()

    async def _write_end(self, spec: BuildSpec, live: LiveLog, outcome: TemplateImage | BuildFailed) -> bool:
        """Whether its template is still there. A build that has ended must not be shown as running for ever: it is tried again."""
        for _ in range(_END_ATTEMPTS):
            try:
                await self._flush(live)
                return await self._database.run(lambda session: buildrecords.finish_build(session, spec, outcome))
            except SQLAlchemyError:
                log.exception("the end of build %s could not be written down", spec.build_id)
            await asyncio.sleep(_END_RETRY_SECONDS)
        return False

    async def _flush_often(self, live: LiveLog) -> None:
        while True:
            await asyncio.sleep(_FLUSH_SECONDS)
            with suppress(SQLAlchemyError):
                await self._flush(live)

    async def _flush(self, live: LiveLog) -> None:
        """Write down the lines that are new."""
        if lines := live.lines[live.written :]:
            await self._database.run(lambda session: buildrecords.write_lines(session, live.build_id, lines))
            live.written += len(lines)
