"""What a caller asks for when creating a sandbox, and the checks that need no store and no node."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from sandpit.control.errors import InvalidRequestError
from sandpit.control.lifecycle.network import Egress, check_egress, check_ingress
from sandpit.control.limits import MAX_METADATA_BYTES, MAX_VARIABLES_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSandbox:
    """A create, its defaults filled in (they differ between v1 and v2; current-protocol 3.2)."""

    template: str
    timeout: int
    """Seconds to live."""
    secure: bool
    auto_pause: bool = False
    auto_pause_memory: bool | None = None
    auto_resume: bool = False
    allow_internet_access: bool | None = None
    network: Mapping[str, Any] | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    env_vars: Mapping[str, str] = field(default_factory=dict)
    mcp: Mapping[str, Any] | None = None
    iam_tokens: bool = False
    volume_mounts: bool = False
    sidecars: bool = False

    def fingerprint(self) -> str:
        """SHA-256 of the request: tells whether two creates with one Idempotency-Key are the same."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    @property
    def public_traffic(self) -> bool:
        """Whether the sandbox's ports are open without the traffic token."""
        return (self.network or {}).get("allowPublicTraffic") is not False

    def lifecycle(self) -> dict[str, Any]:
        """What the store keeps of the lifecycle options."""
        return {
            "autoResume": self.auto_resume,
            "onTimeout": "pause" if self.auto_pause else "kill",
            "keepMemory": self.auto_pause_memory is not False,
        }

    def check(self, max_session_seconds: int) -> Egress:
        """Refuse what is wrong or what this server does not have. Raises: InvalidRequestError."""
        check_timeout(self.timeout, max_session_seconds, minimum=1)
        self._check_lifecycle()
        if self.iam_tokens:
            raise InvalidRequestError("iam is not supported: this server issues no workload identities. Leave it out.")
        if self.volume_mounts:
            raise InvalidRequestError("volumeMounts is not supported: this server has no volumes. Leave it out.")
        if self.sidecars:
            raise InvalidRequestError(
                "sidecars is not supported: this server runs no sidecars. Leave it out.", error_code="sidecar_flag_off"
            )
        _check_pairs("metadata", self.metadata, MAX_METADATA_BYTES)
        _check_pairs("envVars", self.env_vars, MAX_VARIABLES_BYTES)
        for name in self.env_vars:
            if "=" in name:
                raise InvalidRequestError(f"envVars: '{name}' has a '=', which no environment variable's name may have")
        check_ingress(self.network or {})
        if not self.public_traffic and not self.secure:
            raise InvalidRequestError("network.allowPublicTraffic false needs a secured sandbox: set secure to true")
        return check_egress(self.network or {}, self.allow_internet_access)

    def _check_lifecycle(self) -> None:
        if self.auto_pause_memory is False and self.auto_resume:
            raise InvalidRequestError("autoPauseMemory false conflicts with autoResume: traffic cannot resume a reboot")
        if self.auto_pause_memory is False and not self.auto_pause:
            raise InvalidRequestError("autoPauseMemory false needs autoPause")
        if self.auto_resume and not self.auto_pause:
            raise InvalidRequestError(
                "autoResume needs autoPause: a sandbox that is killed at its timeout cannot be resumed"
            )


def check_timeout(seconds: int, maximum: int, *, minimum: int) -> None:
    """Raises: InvalidRequestError."""
    if seconds < minimum:
        raise InvalidRequestError(
            f"timeout must be at least {minimum} second{'s' if minimum != 1 else ''}, got {seconds}"
        )
    if seconds > maximum:
        raise InvalidRequestError(
            f"timeout cannot be greater than {maximum / 3600:g} hours ({maximum} seconds), got {seconds}"
        )


def _check_pairs(what: str, pairs: Mapping[str, str], most_bytes: int) -> None:
    """Number and length of each are the API's to check; here it is all together."""
    total = 0
    for name, value in pairs.items():
        total += len(name.encode()) + len(value.encode())
        if total > most_bytes:
            raise InvalidRequestError(f"{what}: all names and values together have more than {most_bytes} bytes")
        if "\0" in name or "\0" in value:
            raise InvalidRequestError(f"{what}: '{name!r}' holds a NUL character")
        if what == "envVars" and not name:
            raise InvalidRequestError("envVars: a name is empty")
