# Generated from _async/sandbox.py by scripts/make_sync: change that one.
"""The sandbox as programs see it: how it is made and found, its managers, and what it has of its own."""

from __future__ import annotations

import builtins
import posixpath
from typing import IO, TYPE_CHECKING, Any, Self, Unpack

from sandpit.sdk import errors, signing, wire
from sandpit.sdk._sync._concurrency import streamed
from sandpit.sdk._sync.commands import Commands
from sandpit.sdk._sync.filesystem import Files, FilesystemManager
from sandpit.sdk._sync.opened import HoldOptions, SandboxOptions
from sandpit.sdk._sync.process import ProcessManager
from sandpit.sdk._sync.states import SandboxStates, call_api, list_pages
from sandpit.sdk._sync.terminal import TerminalManager
from sandpit.sdk.config import Config
from sandpit.sdk.models import EnvVars, RunningSandbox

if TYPE_CHECKING:
    import logging
    from collections.abc import Mapping, Sequence

    from sandpit.sdk._sync.link import Identity
    from sandpit.sdk._sync.opened import OnPorts
    from sandpit.sdk._sync.process import OnExit, OnOutput


class Sandbox(SandboxStates):
    """An isolated Linux machine: processes, files, terminals, ports.

        with Sandbox() as sandbox:
            output = sandbox.process.start_and_wait("uname -a")

    It lives while this object is open, and ends soon after `close()`; see `keep_alive` and `set_timeout`.
    """

    def __init__(
        self,
        template: str = "base",
        id: str | None = None,  # noqa: A002  (the name of 2024)
        api_key: str | None = None,
        cwd: str | None = None,
        env_vars: EnvVars | None = None,
        on_scan_ports: OnPorts | None = None,
        on_stdout: OnOutput | None = None,
        on_stderr: OnOutput | None = None,
        on_exit: OnExit | None = None,
        metadata: dict[str, str] | None = None,
        timeout: float | None = 60,
        domain: str | None = None,
        *,
        logger: logging.Logger | None = None,
        allow_internet_access: bool | None = None,
        network: Mapping[str, Any] | None = None,
        _source: str | Identity | None = None,
    ) -> None:
        """Create a sandbox.

        `template`: a template's name or id, or a snapshot's id; `id` is its old name.
        `api_key`, `domain`: else from the environment (docs/sdk.md).
        `cwd`: what processes start in and relative paths of `filesystem` are below; made if it is missing. Else the home.
        `env_vars`: environment of all processes and cells.
        `on_scan_ports`: called about once a second with the sandbox's TCP sockets.
        `on_stdout`, `on_stderr`: called with each line of processes that have no callback of their own, and of the
        template's start command. `on_exit`: called when a process ends that has none of its own.
        `metadata`: kept with the sandbox; `list()` shows it. `timeout`: seconds until it is there; None for no limit.
        `logger`: instead of `logging.getLogger("sandpit.sdk")`.
        `allow_internet_access`, `network`: what the sandbox may reach (current-protocol 3.9 has the fields of `network`).
        Raises: AuthenticationException, NotFoundException: no such template; RateLimitException, TimeoutException,
        ServerUnreachableException, SandboxException.
        """
        options: SandboxOptions = {
            "api_key": api_key, "cwd": cwd, "env_vars": env_vars, "on_scan_ports": on_scan_ports,
            "on_stdout": on_stdout, "on_stderr": on_stderr, "on_exit": on_exit, "metadata": metadata,
            "timeout": timeout, "domain": domain, "logger": logger,
            "allow_internet_access": allow_internet_access, "network": network,
        }  # fmt: skip
        self._process = ProcessManager(self, on_stdout, on_stderr, on_exit)
        self._commands, self._terminal = Commands(self), TerminalManager(self)
        self._filesystem, self._files = FilesystemManager(self), Files(self)
        super().__init__(id or template, options, _source)

    @property
    def process(self) -> ProcessManager:
        """Processes, with their output in lines."""
        return self._process

    @property
    def filesystem(self) -> FilesystemManager:
        """Files by the rules of 2024: relative to `cwd`, every path of the sandbox."""
        return self._filesystem

    @property
    def terminal(self) -> TerminalManager:
        """Interactive terminals."""
        return self._terminal

    @property
    def commands(self) -> Commands:
        """Commands, with their output as text (current name)."""
        return self._commands

    @property
    def files(self) -> Files:
        """Files by the current rules: of the template's user or a named one, directories made on the way."""
        return self._files

    @property
    def pty(self) -> TerminalManager:
        """The current name of `terminal`."""
        return self._terminal

    @property
    def sandbox_id(self) -> str:
        """The current name of `id`."""
        return self.id

    @classmethod
    def create(cls, template: str | None = None, **options: Unpack[SandboxOptions]) -> Self:
        """Create a sandbox and wait until it is there; arguments and errors as the constructor's."""
        made = cls(**options) if template is None else cls(template, **options)
        return made._opened()

    @classmethod
    def reconnect(
        cls,
        sandbox_id: str,
        cwd: str | None = None,
        env_vars: EnvVars | None = None,
        on_scan_ports: OnPorts | None = None,
        on_stdout: OnOutput | None = None,
        on_stderr: OnOutput | None = None,
        on_exit: OnExit | None = None,
        timeout: float | None = 60,
        api_key: str | None = None,
        domain: str | None = None,
        *,
        logger: logging.Logger | None = None,
    ) -> Self:
        """Take hold of a sandbox that runs, or resume one that is paused. Arguments as the constructor's.

        Raises: SandboxNotFoundException: it has ended; else as the constructor.
        """
        source = sandbox_id.partition("-")[0]  # ids of 2024 had a second part, which said where the sandbox was
        sandbox = cls(
            cwd=cwd, env_vars=env_vars, on_scan_ports=on_scan_ports, on_stdout=on_stdout, on_stderr=on_stderr,
            on_exit=on_exit, timeout=timeout, api_key=api_key, domain=domain, logger=logger, _source=source,
        )  # fmt: skip
        return sandbox._opened()

    @classmethod
    def connect(cls, sandbox_id: str, **options: Unpack[HoldOptions]) -> Self:
        """The current name of `reconnect`."""
        return cls.reconnect(sandbox_id, **options)

    @classmethod
    def list(
        cls, api_key: str | None = None, domain: str | None = None, *, metadata: Mapping[str, str] | None = None,
        states: Sequence[str] = ("running",), timeout: float | None = 60,
    ) -> builtins.list[RunningSandbox]:  # fmt: skip
        """The team's sandboxes, newest first. `metadata`: only those that have all of it. `states`: `running`, `paused`."""
        query = {"state": ",".join(states), "limit": "100"}
        if metadata:
            query["metadata"] = signing.metadata_query(metadata)
        raw = list_pages(Config.resolve(api_key, domain), "/v2/sandboxes", query, "list sandboxes", timeout)
        return [wire.running_sandbox(one) for one in raw]

    def kill(
        self: Sandbox | str, api_key: str | None = None, domain: str | None = None, *, timeout: float | None = 60
    ) -> bool:
        """End a sandbox at once: `sandbox.kill()`, or `Sandbox.kill(sandbox_id)` for any of the team's. False if it has ended."""
        sandbox_id = self.partition("-")[0] if isinstance(self, str) else self.id
        config = Config.resolve(api_key, domain) if isinstance(self, str) else self._config
        path = f"/sandboxes/{signing.path_part(sandbox_id)}"
        try:
            call_api(config, "DELETE", path, f"kill sandbox {sandbox_id}", timeout)
            killed = True
        except errors.NotFoundException:
            killed = False
        if not isinstance(self, str):
            self.lifetime.hand_over()
            self.close()
        return killed

    def get_hostname(self, port: int | None = None) -> str:
        """The host name (and port) under which the sandbox, or a port of it, is reached from outside.

        Raises: SandboxException: the server has none.
        """
        identity = self.link.identity
        host = self._config.host(identity.sandbox_id, identity.domain)
        return f"{port}-{host}" if port else host

    get_host = get_hostname
    """The current name."""

    def get_url(self, port: int) -> str:
        """The address of a port, as browsers want it. Raises: as `get_hostname`."""
        return f"{self._config.scheme(self.link.identity.domain)}://{self.get_hostname(port)}"

    def upload_file(self, file: IO[bytes], timeout: float | None = 60) -> str:
        """Upload an open file into the home, under its own name, in place of one that is there; returns its path there."""
        name = posixpath.basename(str(getattr(file, "name", ""))) or "file"
        return self._filesystem.put(f"{wire.HOME}/{name}", streamed(file), timeout)

    def download_file(self, remote_path: str, timeout: float | None = 60) -> bytes:
        """The content of a file. Raises: FileNotFoundException, FilesystemException."""
        return self._filesystem.read_bytes(remote_path, timeout)

    def download_url(self, path: str, user: str | None = None, expires_in: int | None = None) -> str:
        """An address from which anybody can download a file, for `expires_in` seconds or as long as the sandbox lives."""
        return signing.file_url(self._config, self.link.identity, path, "read", user, expires_in)

    def upload_url(self, path: str, user: str | None = None, expires_in: int | None = None) -> str:
        """An address to which anybody can upload a file (multipart, field `file`)."""
        return signing.file_url(self._config, self.link.identity, path, "write", user, expires_in)

    def _prepare(self, timeout: float | None) -> None:
        super()._prepare(timeout)
        if self._options.get("on_stdout") is not None or self._options.get("on_stderr") is not None:
            self._process.follow_start_command(timeout)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r})" if self._link is not None else f"{type(self).__name__}(not open)"
