"""What the clients of 2024 are told in other words than those of today on the routes that both use (legacy-protocol 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandpit.control.errors import LimitReachedError, NotFoundError

if TYPE_CHECKING:
    from starlette.requests import Request

    from sandpit.api.answers import Json
    from sandpit.control.errors import ControlError

_LISTED = (
    "templateID", "sandboxID", "clientID", "startedAt", "endAt", "cpuCount", "memoryMB", "alias", "metadata",
)  # fmt: skip


def is_legacy(request: Request) -> bool:
    """Whether the caller is an official client of 2024: they all say their version, which begins with 0 (1.6)."""
    headers = request.headers
    return headers.get("publisher") == "e2b" and headers.get("package_version", "").startswith("0.")


def status_for(request: Request, error: ControlError) -> int:
    """The HTTP status of an error: a template that does not exist was the server's failure then (2.3)."""
    if request.method == "POST" and request.url.path == "/sandboxes" and is_legacy(request):
        if isinstance(error, NotFoundError):
            return 500
        if isinstance(error, LimitReachedError):
            return 403
    return error.status


def listed(item: Json) -> Json:
    """A listed sandbox without later fields: the command line of the time makes a column of each one (2.4)."""
    return {name: item[name] for name in _LISTED if name in item}
