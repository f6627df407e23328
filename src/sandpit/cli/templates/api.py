"""The template routes of a server, for the command line."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sandpit.cli.client import Api
from sandpit.cli.errors import CliError

if TYPE_CHECKING:
    from sandpit.cli.context import Context
    from sandpit.cli.templates.dockerfile import Plan

_POLL_SECONDS = 0.2
_UPLOAD_SECONDS = 3600.0


class TemplateApi(Api):
    """The routes of templates and their builds."""

    def templates(self) -> list[dict[str, Any]]:
        """All that the team sees."""
        found: list[dict[str, Any]] = self.call("GET", "/templates")
        return found

    def request(self, name: str, cpu_count: int | None, memory_mb: int | None) -> tuple[str, str]:
        """Ask for a build; returns the ids of template and build."""
        body = {"name": name, "cpuCount": cpu_count, "memoryMB": memory_mb}
        made = self.call("POST", "/v3/templates", {key: value for key, value in body.items() if value is not None})
        return made["templateID"], made["buildID"]

    def upload(
        self, template_id: str, plan: Plan, context: Context, file: str, say: Callable[[str], None]
    ) -> list[dict[str, Any]]:
        """Send the files of all steps that the server does not have; returns the steps as the server takes them."""
        steps = []
        for step in plan.steps:
            body: dict[str, Any] = {"type": step.kind, "args": list(step.args)}
            if step.kind in ("COPY", "ADD"):
                files = context.files(step.args[0], f"{file}, line {step.line}")
                body["filesHash"] = context.digest(files)
                link = self.call("GET", f"/templates/{template_id}/files/{body['filesHash']}")
                if not link["present"]:
                    say(f"Uploading '{step.args[0]}': {len(files)} files")
                    self._put(link["url"], context, files)
            steps.append(body)
        return steps

    def _put(self, url: str, context: Context, files: list[Any]) -> None:
        import httpx

        with context.archive(files) as archive:
            size = os.fstat(archive.fileno()).st_size
            try:
                answer = httpx.put(url, content=archive, headers={"Content-Length": str(size)}, timeout=_UPLOAD_SECONDS)
            except httpx.HTTPError as error:
                raise CliError(f"the files could not be uploaded: {error}") from None
        if answer.is_error:
            raise CliError(f"the files could not be uploaded: {answer.text[:500]}")

    def follow(self, template_id: str, build_id: str, say: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """Tell a build's log as it comes; returns its last status, when the log has been told. Ctrl-C cancels the build."""
        path, offset = f"/templates/{template_id}/builds/{build_id}", 0
        try:
            while True:
                status: dict[str, Any] = self.call("GET", f"{path}/status", logsOffset=offset)
                for entry in status["logEntries"]:
                    say(entry)
                offset += len(status["logEntries"])
                if status["status"] in ("ready", "error") and not status["logEntries"]:
                    return status
                if not status["logEntries"]:
                    time.sleep(_POLL_SECONDS)
        except KeyboardInterrupt:
            self.call("DELETE", path)
            raise CliError("the build was cancelled", status=130) from None
