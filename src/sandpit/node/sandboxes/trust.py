"""The host's certificates and proxy settings, for sandboxes whose operator says so.

Where a network inspects TLS, nothing in a sandbox can fetch a package without the authority that the host already trusts.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

GUEST_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
_HOST_BUNDLES = (Path("/etc/ssl/certs/ca-certificates.crt"), Path("/etc/pki/tls/certs/ca-bundle.crt"))
_CERTIFICATE_VARIABLES = (
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
)
_PROXY_VARIABLES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


@dataclass(frozen=True, slots=True)
class Trust:
    """What sandboxes get: a certificate bundle (PEM) and environment variables. Empty: nothing."""

    bundle: bytes = b""
    env: Mapping[str, str] = field(default_factory=dict)

    def key(self) -> str:
        """Names the content: snapshots depend on it."""
        return hashlib.sha256(self.bundle).hexdigest()[:16] if self.bundle else ""


def of_host() -> Trust:
    """What this host trusts and how it reaches the network."""
    bundle = next((path.read_bytes() for path in _HOST_BUNDLES if path.exists()), b"")
    env = {name: os.environ[name] for name in _PROXY_VARIABLES if os.environ.get(name)}
    if bundle:
        env.update(dict.fromkeys(_CERTIFICATE_VARIABLES, GUEST_BUNDLE))
    return Trust(bundle, env)
