"""The network object of a sandbox: checking it, and what it means for the node and the edge (current-protocol 3.9)."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sandpit.contract.egress import address_range, denies_everything
from sandpit.contract.node import NetworkPolicy
from sandpit.control.errors import InvalidRequestError
from sandpit.control.limits import MAX_DNS_SERVERS, MAX_HTTPS_PORTS
from sandpit.protocol.ports import AGENT as AGENT_PORT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ALL_TRAFFIC = "0.0.0.0/0"
PORT_PLACEHOLDER = "${PORT}"
_LABEL = r"(?!-)[a-z0-9_-]{1,63}(?<!-)"
_DOMAIN = re.compile(rf"(?:\*\.)?(?:{_LABEL}\.)*(?P<last>{_LABEL})")
_HOST = re.compile(rf"(?:{_LABEL}\.)*{_LABEL}(?::(?P<port>[0-9]{{1,5}}))?", re.IGNORECASE)
_REFUSED = {
    "egressProxy": "egress through a SOCKS5 proxy",
    "rules": "header rules for outgoing requests",
}
EGRESS_FIELDS = ("allowOut", "denyOut", "dnsServers")


@dataclass(frozen=True, slots=True)
class Egress:
    """Checked egress settings, as the caller wrote them."""

    allow_out: tuple[str, ...] = ()
    deny_out: tuple[str, ...] = ()
    dns_servers: tuple[str, ...] | None = None
    allow_internet_access: bool | None = None

    def policy(self) -> NetworkPolicy:
        """The same for the node: lower case, addresses canonical, `allow_internet_access: false` spelled out."""
        deny = [_canonical(entry) for entry in self.deny_out]
        if self.allow_internet_access is False and ALL_TRAFFIC not in deny:
            deny.append(ALL_TRAFFIC)
        allow = tuple(_canonical(entry) for entry in self.allow_out)
        return NetworkPolicy(allow_out=allow, deny_out=tuple(deny), dns_servers=self.dns_servers)


def check_egress(network: Mapping[str, Any], allow_internet_access: bool | None) -> Egress:
    """The egress part of a network object whose shape is right. Raises: InvalidRequestError."""
    for name, meaning in _REFUSED.items():
        if network.get(name):
            raise InvalidRequestError(f"network.{name} is not supported: this server has no {meaning}. Leave it out.")
    allow = tuple(network.get("allowOut") or ())
    deny = tuple(network.get("denyOut") or ())
    dns = network.get("dnsServers")
    for entry in deny:
        if not _is_address(entry):
            raise InvalidRequestError(
                f"network.denyOut: '{entry}' is neither an IPv4 address nor an IPv4 CIDR block; domains cannot be denied, "
                "and IPv6 is closed to all sandboxes"
            )
    domains = [entry for entry in allow if not _is_address(entry)]
    for entry in domains:
        if not _is_domain(entry):
            raise InvalidRequestError(
                f"network.allowOut: '{entry}' is no IPv4 address, CIDR block, domain or '*.domain' "
                "(international names in their ASCII form, 'xn--...')"
            )
    denies_all = allow_internet_access is False or denies_everything(deny)
    if domains and not denies_all:
        raise InvalidRequestError(
            f"network.allowOut holds the domain '{domains[0]}', which needs '{ALL_TRAFFIC}' in network.denyOut: "
            "without it everything is allowed anyway"
        )
    return Egress(allow, deny, _check_dns(dns), allow_internet_access)


def check_ingress(network: Mapping[str, Any]) -> None:
    """The part of a network object that is about reaching the sandbox. Raises: InvalidRequestError."""
    mask = network.get("maskRequestHost")
    if mask is not None and not _is_host(mask):
        raise InvalidRequestError(
            f"network.maskRequestHost: '{mask}' is no host name with an optional port; "
            f"'{PORT_PLACEHOLDER}' stands for the port"
        )
    ports: Sequence[int] = network.get("httpsPorts") or ()
    if len(ports) > MAX_HTTPS_PORTS:
        raise InvalidRequestError(f"network.httpsPorts: at most {MAX_HTTPS_PORTS} ports")
    for port in ports:
        if not 1 <= port <= 65535:
            raise InvalidRequestError(f"network.httpsPorts: {port} is not between 1 and 65535")
        if port == AGENT_PORT:
            raise InvalidRequestError(
                f"network.httpsPorts: {AGENT_PORT} is the sandbox agent's port, which is no HTTPS"
            )


def replace_egress(network: Mapping[str, Any] | None, update: Mapping[str, Any]) -> dict[str, Any]:
    """The network object after an update: all egress settings are the update's, the rest stays (3.9)."""
    kept = {name: value for name, value in (network or {}).items() if name not in EGRESS_FIELDS}
    return kept | {name: update[name] for name in EGRESS_FIELDS if update.get(name) is not None}


def _check_dns(servers: Sequence[str] | None) -> tuple[str, ...] | None:
    if servers is None:
        return None
    if len(servers) > MAX_DNS_SERVERS:
        raise InvalidRequestError(f"network.dnsServers: at most {MAX_DNS_SERVERS} servers")
    for server in servers:
        if "/" in server or not _is_address(server):
            raise InvalidRequestError(f"network.dnsServers: '{server}' is not an IPv4 address")
    return tuple(servers)


def _is_address(entry: str) -> bool:
    """IPv4 address or CIDR block. Netmasks in dotted form are refused: nobody writes them, and `ipaddress` guesses."""
    return address_range(entry) is not None


def _canonical(entry: str) -> str:
    if not _is_address(entry):
        return entry.lower()
    return str(ipaddress.IPv4Network(entry, strict=False)) if "/" in entry else entry


def _is_domain(entry: str) -> bool:
    if entry == "*":
        return True
    if not entry.isascii():  # some other letters are ASCII in lower case
        return False
    match = _DOMAIN.fullmatch(entry.lower())
    # A last label of digits is a mistyped address.
    return match is not None and len(entry) <= 253 and not match["last"].isdigit()


def _is_host(mask: str) -> bool:
    match = _HOST.fullmatch(mask.replace(PORT_PLACEHOLDER, "8080"))
    if match is None or len(mask) > 255:
        return False
    return match["port"] is None or 1 <= int(match["port"]) <= 65535
