# Generated from _async/opened.py by scripts/make_sync: change that one.
"""A sandbox and this program's hold on it: opening, keeping alive, closing, and what its operations share."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Self, TypedDict

from sandpit.sdk import errors, signing, wire
from sandpit.sdk._sync._concurrency import Opening, Periodic
from sandpit.sdk._sync.filesystem import make_dir
from sandpit.sdk._sync.running import tell
from sandpit.sdk.config import Config

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sandpit.sdk._sync.lifetime import Lifetime
    from sandpit.sdk._sync.link import Identity, Link
    from sandpit.sdk._sync.process import OnExit, OnOutput
    from sandpit.sdk.models import EnvVars, OpenPort

    OnPorts = Callable[[list[OpenPort]], Any]

_SCAN_SECONDS = 1.0
logger = logging.getLogger("sandpit.sdk")


class HoldOptions(TypedDict, total=False):
    """The arguments that concern this program's hold on a sandbox; see `Sandbox`."""

    api_key: str | None
    cwd: str | None
    env_vars: EnvVars | None
    on_scan_ports: OnPorts | None
    on_stdout: OnOutput | None
    on_stderr: OnOutput | None
    on_exit: OnExit | None
    timeout: float | None
    domain: str | None
    logger: logging.Logger | None


class SandboxOptions(HoldOptions, total=False):
    """The arguments of a new sandbox besides its template."""

    metadata: dict[str, str] | None
    allow_internet_access: bool | None
    network: Mapping[str, Any] | None


class OpenedSandbox(Opening):
    """The parts of a sandbox object that are no operations."""

    cwd: str | None
    """What processes start in and relative paths of `filesystem` are below; None: the home. May be changed."""
    env_vars: EnvVars
    """Environment of processes and cells. May be changed."""

    def __init__(self, template: str, options: SandboxOptions, source: str | Identity | None) -> None:
        """`source`: None makes a sandbox; the id of one reconnects; an identity is a sandbox that was just made."""
        self._template, self._options, self._source = template, options, source
        self._config = Config.resolve(options.get("api_key"), options.get("domain"))
        self.logger = options.get("logger") or logger
        self.env_vars = dict(options.get("env_vars") or {})
        self._created_env = dict(self.env_vars) if source is None else {}
        cwd = options.get("cwd")
        self.cwd = wire.resolve_path("", cwd) if cwd else None
        self._link: Link | None = None
        self._lifetime: Lifetime | None = None
        self._begin()

    @property
    def link(self) -> Link:
        """The way into it. Raises: SandboxNotOpenException."""
        if self._link is None:
            raise errors.SandboxNotOpenException("this sandbox was not opened", "it, or use `with`")
        return self._link

    @property
    def lifetime(self) -> Lifetime:
        """What keeps it alive. Raises: SandboxNotOpenException."""
        self.link  # noqa: B018
        assert self._lifetime is not None
        return self._lifetime

    @property
    def id(self) -> str:
        """The sandbox's id, by which `reconnect` finds it. Raises: SandboxNotOpenException."""
        return self.link.identity.sandbox_id

    @property
    def is_open(self) -> bool:
        """Whether this object can be used."""
        return self._link is not None and self._link.is_open

    def _opened(self) -> Self:
        if self._link is None:
            self._open()
        return self

    def __enter__(self) -> Self:
        return self._opened()

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _open(self) -> None:
        from sandpit.sdk._sync.http import Http
        from sandpit.sdk._sync.lifetime import Lifetime
        from sandpit.sdk._sync.link import Link

        http = Http(self._config)
        try:
            identity = self._identity(http)
            self._link = Link(http, identity, self.logger)
        except BaseException:
            http.close()
            raise
        self._lifetime = Lifetime(self._link, creator=not isinstance(self._source, str))
        self.logger.info("sandbox %s of template %s is open", identity.sandbox_id, identity.template_id)
        try:
            self._prepare(self._options.get("timeout", 60))
        except BaseException:
            self.close()
            raise

    def _identity(self, http: Any) -> Identity:
        """Make the sandbox, or find it."""
        from sandpit.sdk._sync.lifetime import CREATOR_SECONDS, VISITOR_SECONDS
        from sandpit.sdk._sync.link import Identity

        timeout = self._options.get("timeout", 60)
        if isinstance(self._source, Identity):
            return self._source
        if self._source is not None:
            path = f"/v2/sandboxes/{signing.path_part(self._source)}/connect"
            try:
                answer = http.api(
                    "POST", path, f"connect to sandbox {self._source}", timeout, body={"timeout": VISITOR_SECONDS}
                )
            except errors.NotFoundException as error:
                raise errors.SandboxNotFoundException(
                    error.message, "it has ended, or belongs to another team: Sandbox.list() shows those there are"
                ) from None
            return Identity.parse(answer.json())
        body = {"templateID": self._template, "timeout": CREATOR_SECONDS, **self._wishes()}
        what = f"create a sandbox of template {self._template}"
        try:
            answer = http.api("POST", "/v2/sandboxes", what, timeout, body=body)
        except errors.NotFoundException as error:
            raise errors.NotFoundException(
                error.message, "`sandpit status` shows the templates of the server"
            ) from None
        return Identity.parse(answer.json())

    def _wishes(self) -> dict[str, Any]:
        options = self._options
        body: dict[str, Any] = {"metadata": options.get("metadata") or {}, "envVars": self._created_env}
        if (allowed := options.get("allow_internet_access")) is not None:
            body["allow_internet_access"] = allowed
        if (network := options.get("network")) is not None:
            body["network"] = dict(network)
        return body

    def _prepare(self, timeout: float | None) -> None:
        """What a sandbox does besides being there: its directory, and the callbacks that concern all of it."""
        if self.cwd is not None:
            make_dir(self.link, self.cwd, None, timeout)  # of the template's user, wherever it is
        if (on_ports := self._options.get("on_scan_ports")) is not None:
            link = self.link

            def scan() -> None:
                self._scan_ports(on_ports)

            link.background.add(Periodic(scan, f"sandpit ports {self.id}", _SCAN_SECONDS))

    def _scan_ports(self, on_ports: OnPorts) -> None:
        found: list[OpenPort] = []
        try:
            for name in ("tcp", "tcp6"):
                table = self.link.download(f"/proc/net/{name}", "root", 10)
                found += wire.open_ports(table.decode("ascii"))
        except errors.SandboxException as error:
            self.logger.debug("ports of sandbox %s could not be listed: %s", self.id, error)
            return
        tell(self.link, on_ports, found)

    def process_env(self, env_vars: Mapping[str, str] | None) -> EnvVars:
        """The environment of a process, whose own variables win."""
        return {"PYTHONUNBUFFERED": "1", **self.env_vars, **(env_vars or {})}

    def process_cwd(self, cwd: str) -> dict[str, str]:
        """The field of a message that says where a process starts."""
        wanted = wire.resolve_path(cwd, self.cwd) if cwd else self.cwd
        return {"cwd": wanted} if wanted else {}

    def cell_env(self, envs: Mapping[str, str] | None) -> EnvVars | None:
        """What a cell needs besides what its sandbox was created with."""
        own = {name: value for name, value in self.env_vars.items() if self._created_env.get(name) != value}
        return {**own, **(envs or {})} or None

    def close(self) -> None:
        """Let go of the sandbox. It ends soon unless keep_alive() or set_timeout() gave it time, or others hold it.

        Processes that were started are followed no more. Calling it twice is fine.
        """
        link, lifetime = self._link, self._lifetime
        if link is None or lifetime is None or not link.is_open:
            return
        link.is_open = False
        lifetime.close()
        link.close()
        self.logger.info("sandbox %s is closed", link.identity.sandbox_id)
