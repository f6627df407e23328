# Generated from _async/states.py by scripts/make_sync: change that one.
"""The states of a sandbox: alive for some time, paused, copied, kept; and what the server knows of it."""

from __future__ import annotations

import builtins
from typing import TYPE_CHECKING, Any, Self

from sandpit.protocol import ports
from sandpit.sdk import errors, signing, wire
from sandpit.sdk._sync.opened import OpenedSandbox
from sandpit.sdk.config import Config
from sandpit.sdk.models import RunningSandbox, SandboxMetrics, SnapshotInfo

if TYPE_CHECKING:
    from sandpit.sdk._sync.link import Identity


class SandboxStates(OpenedSandbox):
    """The part of a sandbox's operations that concerns it as a whole."""

    def keep_alive(self, duration: int, timeout: float | None = 60) -> None:
        """Let the sandbox live at least `duration` seconds (0 to 3600) from now on, also when this object is closed.

        Raises: ValueError; SandboxNotFoundException: it has ended.
        """
        self.lifetime.keep_alive(duration, timeout)

    def set_timeout(self, seconds: int, timeout: float | None = 60) -> None:
        """Let the sandbox live `seconds` from now on, not longer or shorter: this object keeps it alive no more."""
        self._hand_over("timeout", {"timeout": seconds}, "set the life of", timeout)

    def is_running(self, timeout: float | None = 60) -> bool:
        """Whether the sandbox can be used; False when it has ended or is paused."""
        request = self.link.request("GET", ports.AGENT, "/health", timeout, {})
        return (self.link.http.send(request, "look at the sandbox", timeout)).status_code < 300

    def get_info(self, timeout: float | None = 60) -> RunningSandbox:
        """What the server knows of the sandbox. Raises: NotFoundException: it has ended."""
        answer = self.link.http.api("GET", f"/sandboxes/{self.id}", f"look at sandbox {self.id}", timeout)
        return wire.running_sandbox(answer.json())

    def get_metrics(self, timeout: float | None = 60) -> builtins.list[SandboxMetrics]:
        """What the sandbox used, every 5 s, oldest first; empty in its first seconds."""
        path = f"/sandboxes/{self.id}/metrics"
        answer = self.link.http.api("GET", path, f"measure sandbox {self.id}", timeout)
        return [wire.metrics(raw) for raw in answer.json()]

    def pause(self, timeout: float | None = 60) -> bool:
        """Save the sandbox with its memory and stop it, until `resume()` or `Sandbox.reconnect(id)`. False if it is paused.

        Processes go on after that; this object follows those that it started no more.
        """
        try:
            self._hand_over("pause", {}, "pause", timeout)
        except errors.SandboxException as error:
            if error.status == 409:
                self.lifetime.hand_over()
                return False
            raise
        return True

    def resume(self, timeout: float | None = 60) -> None:
        """Let a paused sandbox go on, and keep it alive again. Raises: NotFoundException."""
        from sandpit.sdk._sync.lifetime import VISITOR_SECONDS, Lifetime

        path, what = f"/v2/sandboxes/{self.id}/connect", f"resume sandbox {self.id}"
        self.link.http.api("POST", path, what, timeout, body={"timeout": VISITOR_SECONDS})
        self.lifetime.hand_over()
        self._lifetime = Lifetime(self.link, creator=False)

    def fork(self, count: int = 1, timeout: float | None = 60) -> builtins.list[Self]:
        """Copies of the sandbox with its files, processes and memory, as sandboxes of their own. This one goes on.

        Raises: RateLimitException, SandboxException: not all of them could be made, and so none was.
        """
        from sandpit.sdk._sync.lifetime import CREATOR_SECONDS
        from sandpit.sdk._sync.link import Identity

        body = {"count": count, "timeout": CREATOR_SECONDS}
        answer = self._post("fork", body, "fork", timeout)
        results = answer.json()
        made = [Identity.parse(result["sandbox"]) for result in results if "sandbox" in result]
        if len(made) < len(results):
            for identity in made:
                call_api(self._config, "DELETE", f"/sandboxes/{identity.sandbox_id}", "give up a fork", timeout)
            problem = next(result["error"] for result in results if "error" in result)
            raise errors.SandboxException(f"only {len(made)} of {count} forks could be made: {problem.get('message')}")
        return [self._copy(identity) for identity in made]

    def _copy(self, identity: Identity) -> Self:
        kept = {name: value for name, value in self._options.items() if name not in ("metadata", "cwd", "env_vars")}
        options: Any = {**kept, "cwd": self.cwd, "env_vars": self.env_vars}
        cls: Any = type(self)
        copy: Self = cls(self._template, _source=identity, **options)
        return copy._opened()

    def snapshot(self, name: str | None = None, timeout: float | None = 60) -> SnapshotInfo:
        """Keep the sandbox as it is now: `snapshot_id` is a template to create sandboxes from. It goes on."""
        body = {} if name is None else {"name": name}
        raw = (self._post("snapshots", body, "take a snapshot of", timeout)).json()
        return SnapshotInfo(raw["snapshotID"], raw["names"])

    create_snapshot = snapshot
    """The current name."""

    @classmethod
    def list_snapshots(
        cls, api_key: str | None = None, domain: str | None = None, *, timeout: float | None = 60
    ) -> builtins.list[SnapshotInfo]:
        """The team's snapshots, newest first."""
        raw = list_pages(Config.resolve(api_key, domain), "/snapshots", {"limit": "100"}, "list snapshots", timeout)
        return [SnapshotInfo(one["snapshotID"], one["names"]) for one in raw]

    @classmethod
    def delete_snapshot(
        cls, snapshot_id: str, api_key: str | None = None, domain: str | None = None, *, timeout: float | None = 60
    ) -> bool:
        """Delete a snapshot. False if there is none. Raises: InvalidArgumentException: sandboxes that need it are running."""
        path = f"/templates/{signing.path_part(snapshot_id)}"
        try:
            call_api(Config.resolve(api_key, domain), "DELETE", path, f"delete snapshot {snapshot_id}", timeout)
        except errors.NotFoundException:
            return False
        return True

    def _post(self, action: str, body: dict[str, Any], what: str, timeout: float | None) -> Any:
        path = f"/sandboxes/{self.id}/{action}"
        return self.link.http.api("POST", path, f"{what} sandbox {self.id}", timeout, body=body)

    def _hand_over(self, action: str, body: dict[str, Any], what: str, timeout: float | None) -> None:
        """Do something after which the sandbox is not kept alive from here; if it fails, it still is."""
        self.lifetime.hand_over()
        try:
            self._post(action, body, what, timeout)
        except BaseException:
            self._lifetime = self.lifetime.again()
            raise


def call_api(config: Config, method: str, path: str, what: str, timeout: float | None, query: Any = None) -> Any:
    """One call of the REST API."""
    from sandpit.sdk._sync.http import Http

    http = Http(config)
    try:
        return http.api(method, path, what, timeout, query=query)
    finally:
        http.close()


def list_pages(
    config: Config, path: str, query: dict[str, str], what: str, timeout: float | None
) -> builtins.list[Any]:
    """All items of a list that comes in pages (current-protocol 2.4)."""
    found: builtins.list[Any] = []
    token: str | None = None
    while True:
        wanted = query if token is None else {**query, "nextToken": token}
        answer = call_api(config, "GET", path, what, timeout, wanted)
        found += answer.json()
        token = answer.headers.get("x-next-token")
        if not token:
            return found
