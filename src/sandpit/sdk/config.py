"""Where the server is and who we are: from arguments, else from the environment as `eval "$(sandpit env)"` sets it."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from sandpit.sdk.errors import AuthenticationException, SandboxException

DEFAULT_API_URL = "http://127.0.0.1:3000"
DEFAULT_SANDBOX_URL = "http://127.0.0.1:3002"


@dataclass(frozen=True, slots=True)
class Config:
    """The settings of one client. Each is an argument, else `SANDPIT_<NAME>`, else `E2B_<NAME>`."""

    api_key: str = field(repr=False)
    """API_KEY."""
    api_url: str
    """API_URL; without it `https://api.{domain}`, without a domain a server on this machine."""
    sandbox_url: str | None
    """SANDBOX_URL: one address for everything inside sandboxes; None: each has a name below `domain`."""
    domain: str | None
    """DOMAIN of the names `{port}-{sandbox id}.{domain}`; the server may name another one."""

    @classmethod
    def resolve(cls, api_key: str | None = None, domain: str | None = None) -> Config:
        """Fill in from the environment. Raises: AuthenticationException: no key."""
        key = api_key or _setting("API_KEY")
        if not key:
            raise AuthenticationException(
                "no API key: neither the argument api_key nor SANDPIT_API_KEY or E2B_API_KEY is set",
                'run `eval "$(sudo sandpit env)"` in this shell, or pass api_key',
            )
        named = domain or _setting("DOMAIN")
        api_url, sandbox_url = _setting("API_URL"), _setting("SANDBOX_URL")
        if domain:  # an argument means this server, whatever the environment says
            api_url = sandbox_url = None
        if not sandbox_url and not named and api_url in (None, DEFAULT_API_URL):
            sandbox_url = DEFAULT_SANDBOX_URL
        api_url = api_url or (f"https://api.{named}" if named else DEFAULT_API_URL)
        for name, url in (("API_URL", api_url), ("SANDBOX_URL", sandbox_url)):
            if url and not url.startswith(("http://", "https://")):
                raise SandboxException(f"{name} is no address: {url!r}", "it begins with http:// or https://")
        return cls(key, api_url.rstrip("/"), sandbox_url.rstrip("/") if sandbox_url else None, named)

    def port_url(self, sandbox_id: str, port: int, domain: str | None) -> str:
        """The address of a sandbox's port for this client, which also says in headers what it means.

        `domain`: the server's answer. Raises: SandboxException: no address is known.
        """
        if self.sandbox_url:
            return self.sandbox_url
        named = domain or self.domain
        if not named:
            raise SandboxException(
                f"no address is known for what runs inside sandboxes of {self.api_url}",
                'run `eval "$(sudo sandpit env)"`, or set E2B_SANDBOX_URL or E2B_DOMAIN',
            )
        return f"https://{port}-{sandbox_id}.{named}"

    def host(self, sandbox_id: str, domain: str | None) -> str:
        """The host name (and port) of a sandbox for others: browsers, programs without our headers.

        Raises: SandboxException: the server has an IP address only, and no domain is set.
        """
        named = self._domain(domain)
        if not named:
            parts = urlsplit(self.sandbox_url or "")
            name = _name_of(parts.hostname or "")
            if name is None:
                raise SandboxException(
                    f"sandboxes have no host names: the server's address {self.sandbox_url} is none that names can be put before",
                    "set E2B_DOMAIN to a domain whose names `*.domain` lead to the server",
                )
            named = f"{name}:{parts.port}" if parts.port else name
        return f"{sandbox_id}.{named}"

    def scheme(self, domain: str | None) -> str:
        """`http` or `https`, for what `host` names."""
        plain = not self._domain(domain) and (self.sandbox_url or "").startswith("http://")
        return "http" if plain else "https"

    def _domain(self, domain: str | None) -> str | None:
        """The domain to use: the server's, else ours. None where both are this machine: the address we have needs no certificate."""
        if self.sandbox_url and not self.domain and _is_here(domain or "", urlsplit(self.sandbox_url).hostname or ""):
            return None
        return domain or self.domain


def _setting(name: str) -> str | None:
    return os.environ.get(f"SANDPIT_{name}") or os.environ.get(f"E2B_{name}") or None


def _is_here(domain: str, host: str) -> bool:
    """Whether a server's domain is below `localhost`, and its address one that such names can stand for."""
    name = domain.partition(":")[0]
    return (name == "localhost" or name.endswith(".localhost")) and _name_of(host) == "localhost"


def _name_of(host: str) -> str | None:
    """What host names can be put before: `localhost` stands for this machine's address (RFC 6761)."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host or None
    return "localhost" if address.is_loopback else None
