"""How the server comes to its TLS certificate, and keeps up with it when it is renewed."""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from sandpit.server.certificates import Certificate, CertificateError, own_certificate, server_context

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Iterable

    from sandpit.server.settings import Settings

log = logging.getLogger(__name__)
_LOOK_SECONDS = 30.0
"""Between two looks at the files: whoever renews them need not tell us."""


@asynccontextmanager
async def tls_of(settings: Settings) -> AsyncIterator[ssl.SSLContext | None]:
    """What HTTPS is served with; new files are taken as they come. None when the server can make no certificate of its own.

    Raises: CertificateError: the operator's cannot be used.
    """
    if settings.tls_certificate is not None and settings.tls_key is not None:
        certificate = Certificate(settings.tls_certificate, settings.tls_key)
    else:
        try:
            certificate = await asyncio.to_thread(own_certificate, settings.data_dir, settings.tls_domain)
        except CertificateError as error:  # on a full disk, for instance: plain HTTP is no reason to wait for room
            log.error("HTTPS is not served until the next start: %s", error)
            yield None
            return
    context = server_context(certificate)
    watching = asyncio.create_task(_follow(certificate, context))
    try:
        yield context
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


async def _follow(certificate: Certificate, context: ssl.SSLContext) -> None:
    seen = certificate.stamp()
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        try:
            stamp = certificate.stamp()
            if stamp == seen:
                continue
            certificate.load(context)
        except (OSError, CertificateError) as error:
            log.warning("the TLS certificate stays the one before: %s", error)
        else:
            seen = stamp
            log.info("the TLS certificate %s was renewed", certificate.chain)


def usable_hosts(hosts: Iterable[str]) -> tuple[str, ...]:
    """`hosts` without `::1` where the machine has no IPv6."""
    return tuple(host for host in hosts if host != "::1" or _has_ipv6())


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True
