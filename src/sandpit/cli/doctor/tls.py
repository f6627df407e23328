"""Whether TLS from this machine is inspected on its way: by a proxy whose authority this machine trusts, and nobody else does."""

from __future__ import annotations

import http.client
import os
import ssl
import threading
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sandpit.cli.doctor.checks import Check, Result
from sandpit.node.sandboxes import trust
from sandpit.provision.pipconfig import uv_environment

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sandpit.server.settings import Settings

_TEST_NAME = "example.com"
"""Reserved for such uses (RFC 2606); its server has a certificate of a public authority."""
_CONNECT_SECONDS = 3.0
_TOTAL_SECONDS = 8.0
"""For all hosts together: looking up a name cannot be broken off, so it is left behind."""
_INDEXES = ("UV_DEFAULT_INDEX", "UV_INDEX")
_MOST_HOSTS = 8
_SETTING = (
    "set SANDPIT_PASS_HOST_CA=true (`pass_host_ca = true` in sandpit.toml) and restart the server: sandboxes and template "
    "builds then trust this machine's authorities (docs/network.md)"
)
_INSTALL = "install the proxy's authority on this machine (update-ca-certificates), and set SANDPIT_PASS_HOST_CA=true"


@dataclass(frozen=True, slots=True)
class Seen:
    """Who vouches for a host, as this machine sees it."""

    host: str
    public: bool
    """An authority that everybody trusts."""
    issuer: str
    """What the authority calls itself, if this machine trusts it; empty: it does not."""


def _inspected(settings: Settings) -> Result:
    looks = look(_hosts(), _TOTAL_SECONDS)
    if not looks:
        return Result("ok", "no server could be asked")
    private = [seen for seen in looks if not seen.public]
    if not private:
        return Result("ok", f"not inspected: {', '.join(seen.host for seen in looks)} have public certificates")
    seen = private[0]
    if not seen.issuer:
        detail = f"{seen.host} has a certificate that neither this machine nor anybody else trusts: is TLS inspected?"
        return Result("warning", detail, _INSTALL)
    detail = f"the certificate of {seen.host} is by {seen.issuer}, an authority that only this machine trusts"
    if settings.pass_host_ca:
        return Result("ok", f"{detail}: sandboxes get it (pass_host_ca)")
    return Result(
        "warning", f"{detail}: pip, npm, curl and git in sandboxes do not (a proxy that inspects TLS?)", _SETTING
    )


def look(addresses: Iterable[tuple[str, int]], seconds: float) -> list[Seen]:
    """Ask each server for its certificate, all at once; those that have not answered in time, or have no TLS, are left out."""
    found: dict[tuple[str, int], Seen] = {}

    def ask(address: tuple[str, int]) -> None:
        if (seen := _look(*address)) is not None:
            found[address] = seen

    wanted = list(addresses)
    threads = [threading.Thread(target=ask, args=(address,), daemon=True) for address in wanted]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return [found[address] for address in wanted if address in found]


def _look(host: str, port: int) -> Seen | None:
    """None: the server cannot be asked."""
    try:
        try:
            _issuer(host, port, _public_authorities())
        except ssl.SSLCertVerificationError:
            try:
                return Seen(host, public=False, issuer=_issuer(host, port, _own_authorities()))
            except ssl.SSLCertVerificationError:
                return Seen(host, public=False, issuer="")
    except (OSError, http.client.HTTPException, ValueError):
        return None
    return Seen(host, public=True, issuer="")


def _issuer(host: str, port: int, context: ssl.SSLContext) -> str:
    """The name of a server's authority. Raises: OSError; among them ssl.SSLCertVerificationError; HTTPException, ValueError."""
    connection = _connection(host, port, context)
    try:
        connection.connect()
        assert isinstance(connection.sock, ssl.SSLSocket)
        certificate = connection.sock.getpeercert() or {}
    finally:
        connection.close()
    parts: dict[str, str] = {}
    for part in certificate.get("issuer", ()):
        parts.update(part)  # type: ignore[arg-type]  # pairs of a name and a value
    return parts.get("organizationName") or parts.get("commonName") or "an authority without a name"


def _connection(host: str, port: int, context: ssl.SSLContext) -> http.client.HTTPSConnection:
    """Directly, or through this machine's proxy. Raises: ValueError for one that is no HTTP proxy."""
    proxy = None if urllib.request.proxy_bypass(host) else urllib.request.getproxies().get("https")
    if not proxy:
        return http.client.HTTPSConnection(host, port, timeout=_CONNECT_SECONDS, context=context)
    parts = urllib.parse.urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(f"{parts.scheme} is not supported")
    connection = http.client.HTTPSConnection(
        parts.hostname, parts.port or 80, timeout=_CONNECT_SECONDS, context=context
    )
    connection.set_tunnel(host, port)
    return connection


def _public_authorities() -> ssl.SSLContext:
    """Those that browsers trust, and nothing of this machine's."""
    import certifi

    return ssl.create_default_context(cafile=certifi.where())


def _own_authorities() -> ssl.SSLContext:
    """What sandboxes would get of this machine."""
    return ssl.create_default_context(cadata=trust.of_host().bundle.decode("ascii", "ignore") or None)


def _hosts() -> list[tuple[str, int]]:
    """Where packages come from, as far as this machine is configured for it, and a well-known name."""
    addresses = []
    for url in (*_pip_indexes(), *_npm_registries()):
        parts = urllib.parse.urlsplit(url)
        if parts.scheme == "https" and parts.hostname:
            addresses.append((parts.hostname, parts.port or 443))
    return list(dict.fromkeys([*addresses[:_MOST_HOSTS], (_TEST_NAME, 443)]))


def _pip_indexes() -> list[str]:
    settings = uv_environment(os.environ)
    return [url for name in _INDEXES for url in settings.get(name, "").split()]


def _npm_registries() -> list[str]:
    """As npm's variables and files name them (npmrc(5))."""
    found = [os.environ.get(name, "") for name in ("npm_config_registry", "NPM_CONFIG_REGISTRY")]
    for file in (Path(os.environ.get("NPM_CONFIG_USERCONFIG") or Path.home() / ".npmrc"), Path("/etc/npmrc")):
        lines = file.read_text(errors="replace").splitlines() if file.is_file() else []
        settings = (line.partition("=") for line in lines)
        found += [value.strip() for name, _, value in settings if name.strip() == "registry"]
    return found


CHECKS = (Check("inspected TLS", _inspected, "", required=False),)
