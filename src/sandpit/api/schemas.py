"""Request bodies. Unknown fields are ignored, null means absent, types are not converted (current-protocol 3.2)."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from sandpit.api.http.fields import (
    DnsServers,
    EgressRules,
    Host,
    Integer,
    McpServers,
    Metadata,
    Name,
    Ports,
    RefusedList,
    RefusedObject,
    TemplateText,
    Variables,
)
from sandpit.control.lifecycle.requests import NewSandbox
from sandpit.control.limits import MAX_FORKS, MAX_INTEGER, MAX_MCP_BYTES

V1_TIMEOUT = 15
V2_TIMEOUT = 300


class Body(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class EgressBody(Body):
    """Current-protocol 3.9, the fields that create and update share."""

    allow_out: EgressRules | None = Field(None, alias="allowOut")
    deny_out: EgressRules | None = Field(None, alias="denyOut")
    dns_servers: DnsServers | None = Field(None, alias="dnsServers")
    egress_proxy: RefusedObject | None = Field(None, alias="egressProxy")
    rules: RefusedObject | None = None

    def fields(self) -> dict[str, Any]:
        """The object as the API shows it: what was given, under its wire names."""
        return self.model_dump(by_alias=True, exclude_none=True)


class NetworkBody(EgressBody):
    allow_public_traffic: bool | None = Field(None, alias="allowPublicTraffic")
    mask_request_host: Host | None = Field(None, alias="maskRequestHost")
    https_ports: Ports | None = Field(None, alias="httpsPorts")


class NetworkUpdateBody(EgressBody):
    allow_internet_access: bool | None = None


class AutoResumeBody(Body):
    enabled: bool = False


class IamBody(Body):
    tokens: RefusedObject | None = None


class NewSandboxV2Body(Body):
    """POST /v2/sandboxes: always secured, 300 s."""

    template_id: TemplateText = Field(alias="templateID")
    timeout: Integer | None = None
    auto_pause: bool | None = Field(None, alias="autoPause")
    auto_pause_memory: bool | None = Field(None, alias="autoPauseMemory")
    auto_resume: AutoResumeBody | None = Field(None, alias="autoResume")
    allow_internet_access: bool | None = None
    network: NetworkBody | None = None
    metadata: Metadata | None = None
    env_vars: Variables | None = Field(None, alias="envVars")
    mcp: McpServers | None = None
    iam: IamBody | None = None
    volume_mounts: RefusedList | None = Field(None, alias="volumeMounts")
    sidecars: RefusedList | None = None

    @field_validator("mcp")
    @classmethod
    def _storable(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if len(json.dumps(value)) > MAX_MCP_BYTES:
            raise ValueError(f"more than {MAX_MCP_BYTES} bytes of JSON")
        return value

    def request(self, *, default_timeout: int = V2_TIMEOUT, secure: bool = True) -> NewSandbox:
        """The same with the defaults filled in."""
        return NewSandbox(
            template=self.template_id,
            timeout=self.timeout if self.timeout is not None else default_timeout,
            secure=secure,
            auto_pause=bool(self.auto_pause),
            auto_pause_memory=self.auto_pause_memory,
            auto_resume=self.auto_resume is not None and self.auto_resume.enabled,
            allow_internet_access=self.allow_internet_access,
            network=self.network.fields() if self.network is not None else None,
            metadata=self.metadata or {},
            env_vars=self.env_vars or {},
            mcp=self.mcp,
            iam_tokens=self.iam is not None and bool(self.iam.tokens),
            volume_mounts=bool(self.volume_mounts),
            sidecars=bool(self.sidecars),
        )


class NewSandboxV1Body(NewSandboxV2Body):
    """POST /sandboxes: open unless `secure`, 15 s."""

    secure: bool | None = None

    def request(self, *, default_timeout: int = V1_TIMEOUT, secure: bool = False) -> NewSandbox:
        return super().request(default_timeout=default_timeout, secure=secure or bool(self.secure))


class ConnectV2Body(Body):
    timeout: Integer = V2_TIMEOUT
    memory: bool | None = None


class ConnectV1Body(Body):
    timeout: Integer
    memory: bool | None = None


class TimeoutBody(Body):
    timeout: Integer


class ResumeBody(Body):
    timeout: Integer | None = None
    auto_pause: bool | None = Field(None, alias="autoPause")


class RefreshBody(Body):
    duration: Integer = 0


class PauseBody(Body):
    memory: bool | None = None
    require_healthy_guest: bool | None = Field(None, alias="requireHealthyGuest")


class ForkBody(Body):
    timeout: int = Field(V1_TIMEOUT, ge=1, le=MAX_INTEGER)
    count: int = Field(1, ge=1, le=MAX_FORKS)


class SnapshotBody(Body):
    name: TemplateText | None = None
    memory: bool | None = None


class ApiKeyBody(Body):
    name: Name
