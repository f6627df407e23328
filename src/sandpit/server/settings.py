"""Settings of a Sandpit server: environment variables `SANDPIT_*`, over an optional TOML file, over the defaults.

The file is `/etc/sandpit/sandpit.toml`, or the one that `SANDPIT_CONFIG` names. Tables of the file become nested names:
`[limits] max_sandboxes = 20` is `SANDPIT_LIMITS__MAX_SANDBOXES=20`.
"""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from sandpit.control.settings import ControlSettings

DEFAULT_CONFIG = Path("/etc/sandpit/sandpit.toml")


class Pool(BaseModel):
    """The warm pool: sandboxes restored ahead of demand."""

    model_config = ConfigDict(extra="forbid")

    size: int = Field(default=2, ge=0)
    """Sandboxes kept waiting for each template, at least; 0 turns the pool off."""
    max_size: int = Field(default=16, ge=0)
    """The most that are kept waiting, when as many were asked for within a second lately."""
    memory_budget_mb: int = Field(default=2048, ge=0)
    """Memory in MiB that all waiting sandboxes may hold together."""


class Machine(BaseModel):
    """What sandboxes get of this machine, and when it counts as full (docs/operations.md)."""

    model_config = ConfigDict(extra="forbid")

    reserved_cpus: float | None = Field(default=None, gt=0)
    """Processors kept for the server; None: a quarter of one, or a twentieth of all if that is more."""
    reserved_memory_mb: int = Field(default=512, ge=64)
    """Memory in MiB kept for the server and the rest of the machine."""
    sandbox_cpus: float | None = Field(default=None, ge=0.25)
    """Processors that all sandboxes may use together; None: all but the reserved ones."""
    sandbox_memory_mb: int | None = Field(default=None, ge=128)
    """Memory in MiB that all sandboxes may use together; None: all but the reserved."""
    least_cpu: float = Field(default=0.05, ge=0, le=1)
    """A sandbox is started only if this part of a processor, or more, would be left for it beside those that compute. 0: always."""
    full_seconds: float = Field(default=10.0, ge=0, le=60)
    """How long a create waits for room on a full machine before it is refused with 503; others are refused at once then."""
    create_seconds: float = Field(default=55.0, ge=1, le=600)
    """How long a create may take from request to answer. The official clients wait 60 s."""
    create_queue: int = Field(default=256, ge=1, le=10_000)
    """Creates that may wait for their turn, of all teams; more are refused at once with 503."""


class Log(BaseModel):
    """The server's own log, when it runs in the background."""

    model_config = ConfigDict(extra="forbid")

    file_mb: int = Field(default=10, ge=1)
    """Size in MiB at which a new file is begun."""
    files: int = Field(default=5, ge=2)
    """Files that are kept, the one that is written to among them."""


class Settings(ControlSettings, BaseSettings):
    """Everything an operator can set. Raises pydantic.ValidationError (a ValueError) with the reason."""

    model_config = SettingsConfigDict(env_prefix="SANDPIT_", env_nested_delimiter="__", extra="forbid")

    run_dir: Path = Path("/run/sandpit")
    """Sockets, mounts and states of what runs; empty after the machine's next start."""
    api_host: str = "127.0.0.1"
    """Address that the API listens on."""
    api_port: int = Field(default=3000, ge=0, le=65535)
    """Port of the API; 0 has the system choose one."""
    edge_host: str = "127.0.0.1"
    """Address that the gateway listens on: everything inside sandboxes."""
    edge_port: int = Field(default=3002, ge=0, le=65535)
    """Port of the gateway."""
    tls: bool = True
    """Serve HTTPS beside HTTP: the clients of 2024 speak nothing else (docs/legacy.md)."""
    tls_port: int = Field(default=3443, ge=0, le=65535)
    """Port for HTTPS, of API and gateway."""
    tls_host: tuple[str, ...] = ("127.0.0.1", "::1")
    """Addresses for HTTPS; names below `localhost` stand for both loopback addresses."""
    tls_certificate: Path | None = None
    """PEM file with the certificate for `domain` and `*.domain` and its chain; None has the server make its own."""
    tls_key: Path | None = None
    """PEM file with the key of `tls_certificate`."""
    runtime: Literal["gvisor", "crun"] | None = None
    """Forces one runtime for all templates; None takes each template's own (gVisor unless it says otherwise)."""
    node_name: str = Field(default="sandpit", pattern=r"^[a-z0-9]{1,8}$")
    """Separates what several servers on one machine own: interfaces, packet rules, control groups."""
    sandbox_network: ipaddress.IPv4Network = ipaddress.IPv4Network("10.201.0.0/16")
    """Addresses that sandboxes have on this machine, one each; nobody else sees them."""
    allow_ranges: tuple[ipaddress.IPv4Network, ...] = ()
    """Private address ranges that sandboxes may reach in spite of the rule that they may reach none."""
    edge_client_connections: int = Field(default=2000, ge=1)
    """Connections that one client address (one /64 in IPv6) may have to the gateway, which takes 10,000 in all."""
    api_client_connections: int = Field(default=500, ge=1)
    """The same for the API's port, which takes 2,000 in all."""
    trusted_proxies: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()
    """Addresses of proxies in front of this server: many clients are behind them, so limits per client address do not hold."""
    name_servers: tuple[ipaddress.IPv4Address, ...] = Field(default=(), max_length=3)
    """Name servers that resolve for sandboxes; none: those of /etc/resolv.conf."""
    sandbox_flows: int = Field(default=2048, ge=16, le=60_000)
    """Connections to the world (TCP, and flows of UDP and ICMP) that one sandbox may have open at a time."""
    pool: Pool = Pool()
    machine: Machine = Machine()
    log: Log = Log()
    pass_host_ca: bool = False
    """Give the host's CA certificates and proxy settings to the sandboxes, and to template builds, which are sandboxes too."""

    def public_domain(self, port: int | None = None) -> str:
        """What `{port}-{sandbox id}.` is put before: the domain that was set, else this machine's, with the port that serves it.

        `port`: where HTTPS (or HTTP, without `tls`) is served, if that is not what the settings say.
        """
        if self.domain:
            return self.domain
        served = port or (self.tls_port if self.tls else self.edge_port)
        return self.tls_domain if self.tls and served == 443 else f"{self.tls_domain}:{served}"

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key belong together: set both, or none")
        return self

    @model_validator(mode="after")
    def _refuse_open_doors(self) -> Self:
        if self.authentication:
            return self
        tls = [("tls_host", host) for host in self.tls_host]
        for name, host in (("api_host", self.api_host), ("edge_host", self.edge_host), *tls):
            if not is_loopback(host):
                raise ValueError(
                    f"{name} is {host}, which others can reach, but authentication is off: anybody could run code "
                    "here. Turn authentication on, or listen on 127.0.0.1."
                )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=config_file())


def config_file() -> Path | None:
    """The TOML file to read. Raises FileNotFoundError when SANDPIT_CONFIG names a file that does not exist."""
    named = os.environ.get("SANDPIT_CONFIG")
    if not named:
        return DEFAULT_CONFIG if DEFAULT_CONFIG.is_file() else None
    path = Path(named)
    if not path.is_file():
        raise FileNotFoundError(f"SANDPIT_CONFIG names {path}, which is not a file: correct or unset it.")
    return path


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to `host`. Names other than `localhost` count as reachable by others."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
