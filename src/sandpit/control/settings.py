"""What an operator can set of the control plane. The server's settings (`server.settings`) read them from the environment and a file."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


class Limits(BaseModel):
    """What a team may use. A team's own numbers in the store win over these."""

    model_config = ConfigDict(extra="forbid")

    cpu_count: int = Field(default=2, ge=1, le=32)
    """vCPUs of a template that asks for none."""
    memory_mb: int = Field(default=512, ge=128)
    """Memory in MiB of a template that asks for none."""
    max_sandboxes: int = Field(default=500, ge=1)
    """Sandboxes that a team may run at once."""
    max_session_seconds: int = Field(default=24 * 3600, ge=60)
    """Longest time that a sandbox runs without a pause."""
    snapshots_mb: int = Field(default=50 * 1024, ge=0)
    """Disk in MiB that a team's paused sandboxes and snapshots may take up together; the last one may pass it by its own size."""
    templates_mb: int = Field(default=50 * 1024, ge=0)
    """Disk in MiB that a team's templates may take up together."""


class Build(BaseModel):
    """Template builds."""

    model_config = ConfigDict(extra="forbid")

    at_once: int = Field(default=2, ge=1)
    """Builds that run at the same time; others wait, teams in turn."""
    waiting: int = Field(default=20, ge=1)
    """Builds of one team that may run or wait."""
    max_seconds: float = Field(default=3600.0, gt=0)
    """How long a build may take."""
    max_cpu_count: int = Field(default=8, ge=1)
    """The most vCPUs that a template may ask for."""
    max_memory_mb: int = Field(default=8192, ge=128)
    """The most memory in MiB that a template may ask for."""
    upload_mb: int = Field(default=2048, ge=1)
    """Size in MiB of one archive of files that a template copies."""
    uploads_mb: int = Field(default=20480, ge=1)
    """Size in MiB of all archives of a team; the oldest go first."""
    image_mb: int = Field(default=20480, ge=1)
    """Size in MiB of an image of a registry: of its layers as they are sent, and of all of them unpacked."""
    log_lines: int = Field(default=20_000, ge=100)
    """Lines of output that are kept of a build."""
    cache_hours: float = Field(default=7 * 24.0, ge=0)
    """How long layers that no template has are kept for builds that could use them again."""
    registry_mirrors: dict[str, str] = Field(default_factory=dict)
    """By registry (`docker.io`): `host[:port][/path]` to ask first. Reached from this machine itself, without clients' credentials."""
    insecure_registries: tuple[str, ...] = ()
    """Registries (`host[:port]`) that speak plain HTTP, or have a certificate that nobody signed."""
    images: dict[str, str] = Field(
        default_factory=lambda: {"e2bdev/base": "base", "e2bdev/code-interpreter": "code-interpreter-v1"}
    )
    """Names of images that stand for templates of this server: nothing is fetched for them."""


class Retention(BaseModel):
    """How long records are kept, in seconds, and how many log lines."""

    model_config = ConfigDict(extra="forbid")

    metrics: int = Field(default=6 * 3600, ge=60)
    """Seconds for which samples of sandboxes are kept."""
    logs: int = Field(default=7 * 24 * 3600, ge=60)
    """Seconds for which logs of sandboxes are kept."""
    logs_per_sandbox: int = Field(default=10_000, ge=100)
    """Lines of one sandbox's log; the oldest go (counted once a minute)."""
    logs_per_team: int = Field(default=250_000, ge=100)
    """Lines of all logs of one team: none pushes out the others'."""
    logs_total: int = Field(default=1_000_000, ge=1000)
    """Lines of all logs together: a line takes 300 bytes as a rule, and 15 KB at most."""
    ended_sandboxes: int = Field(default=30 * 24 * 3600, ge=60)
    """Seconds for which the records of ended sandboxes are kept."""


class ControlSettings(BaseModel):
    """The control plane's settings."""

    data_dir: Path = Path("/var/lib/sandpit")
    """Templates, sandboxes, snapshots, records: everything that outlives the machine's next start."""
    domain: str | None = None
    """Domain (and port) of the names `{port}-{sandbox id}.{domain}`, which the API tells clients; None: `e2b.localhost`, this machine."""
    authentication: bool = True
    """False lets every caller act for the default team; only allowed on loopback addresses."""
    limits: Limits = Limits()
    build: Build = Build()
    retention: Retention = Retention()
    disk_reserve_mb: int | None = Field(default=None, ge=0)
    """Disk in MiB that is kept free for records, the database and logs: sandboxes, snapshots, builds and uploads that would reach into it
    are refused (507). None keeps a twentieth of the file system, at most 2 GiB."""
    database_url: str | None = None
    """SQLAlchemy URL; None means SQLite in `data_dir`."""
    metrics_interval: float = Field(default=5.0, gt=0)
    """Seconds between two samples of a sandbox (current-protocol 3.8)."""

    max_body_bytes: int = Field(default=1 << 20, ge=1024)
    """Largest JSON request body that the API reads."""

    @property
    def store_url(self) -> str:
        """Where the records are: the database that was set, else SQLite in the data directory."""
        return self.database_url or f"sqlite+aiosqlite:///{self.data_dir / 'sandpit.db'}"

    @property
    def tls_domain(self) -> str:
        """The domain in the certificate, without a port."""
        return self.domain.partition(":")[0] if self.domain else "e2b.localhost"

    @property
    def key_file(self) -> Path:
        """Where the first API key is kept, readable for the owner alone."""
        return self.data_dir / "api-key"

    def public_domain(self) -> str:
        """What `{port}-{sandbox id}.` is put before, as far as it is known before the server listens."""
        return self.domain or self.tls_domain
