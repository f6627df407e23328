"""Settings: environment over file over defaults; open doors are refused."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError

from sandpit.server.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("SANDPIT_"):
            monkeypatch.delenv(name)


def test_defaults() -> None:
    settings = Settings()
    assert (settings.api_host, settings.api_port, settings.edge_port) == ("127.0.0.1", 3000, 3002)
    assert settings.domain is None
    assert settings.store_url == "sqlite+aiosqlite:////var/lib/sandpit/sandpit.db"


def test_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "sandpit.toml"
    file.write_text('api_port = 4000\ndomain = "box.example"\n[limits]\nmax_sandboxes = 7\nmemory_mb = 256\n')
    monkeypatch.setenv("SANDPIT_CONFIG", str(file))
    monkeypatch.setenv("SANDPIT_API_PORT", "5000")
    monkeypatch.setenv("SANDPIT_LIMITS__MAX_SANDBOXES", "9")
    settings = Settings()
    assert (settings.api_port, settings.domain) == (5000, "box.example")
    assert (settings.limits.max_sandboxes, settings.limits.memory_mb) == (9, 256)


def test_missing_file_and_unknown_names_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDPIT_CONFIG", str(tmp_path / "none.toml"))
    with pytest.raises(FileNotFoundError, match="SANDPIT_CONFIG"):
        Settings()
    file = tmp_path / "sandpit.toml"
    file.write_text("api_prot = 4000\n")
    monkeypatch.setenv("SANDPIT_CONFIG", str(file))
    with pytest.raises(ValidationError, match="api_prot"):
        Settings()


@pytest.mark.parametrize("field", ["api_host", "edge_host"])
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.com", ""])
def test_no_open_doors_without_authentication(field: str, host: str) -> None:
    with pytest.raises(ValidationError, match="authentication"):
        Settings.model_validate({field: host, "authentication": False})
    assert Settings.model_validate({field: host}).authentication


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_may_be_open(host: str) -> None:
    assert not Settings(api_host=host, edge_host=host, authentication=False).authentication


def test_the_domain_of_sandboxes() -> None:
    """Never nothing: clients would take somebody else's."""
    assert Settings().public_domain() == "e2b.localhost:3443"
    assert Settings(tls_port=443).public_domain() == "e2b.localhost"
    assert Settings(tls=False).public_domain() == "e2b.localhost:3002"
    assert Settings(tls_port=0).public_domain(4444) == "e2b.localhost:4444"
    assert Settings(domain="box.example:8443").public_domain(4444) == "box.example:8443"
