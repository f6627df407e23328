"""The server's certificate: made once, trusted by who has the authority, renewed without a restart; and the TLS door of the edge."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from tests.edge.edge_support import OK, MemoryDirectory, answering, edge_for, serving

from sandpit.edge import Limits
from sandpit.server import certificates, tls
from sandpit.server.certificates import CertificateError, own_certificate, server_context
from sandpit.server.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sandpit.edge import Edge

DOMAIN = "e2b.localhost"


def trusting(data_dir: Path) -> ssl.SSLContext:
    certificate = own_certificate(data_dir, DOMAIN)
    return ssl.create_default_context(cafile=str(certificate.authority))


@asynccontextmanager
async def secure_edge(data_dir: Path, directory: MemoryDirectory, **options: object) -> AsyncIterator[Edge]:
    context = server_context(own_certificate(data_dir, DOMAIN))
    async with edge_for(directory, ssl_context=context, **options) as edge:
        yield edge


def test_keys_are_the_owners_alone_and_stay(tmp_path: Path) -> None:
    first = own_certificate(tmp_path, DOMAIN)
    content = first.chain.read_bytes()
    modes = {path.name: path.stat().st_mode & 0o777 for path in first.chain.parent.iterdir()}
    assert modes == {
        "ca.pem": 0o644, "ca.key": 0o600, "server.pem": 0o644, "server.key": 0o600, "bundle.pem": 0o644,
    }  # fmt: skip
    assert own_certificate(tmp_path, DOMAIN).chain.read_bytes() == content
    assert first.authority is not None
    assert first.bundle is not None
    assert first.authority.read_text() in first.bundle.read_text()
    assert first.bundle.read_text().count("BEGIN CERTIFICATE") >= 1


def openssl(folder: Path, *arguments: str) -> int:
    return subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, check=False).returncode


def signed(folder: Path, name: str, *extensions: str, subject: str = "/CN=x") -> None:
    """A certificate `name`.pem that the authority of `folder` has signed."""
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{name}.key"]
    wanted = [part for extension in extensions for part in ("-addext", extension)]
    assert openssl(folder, "req", *key, "-subj", subject, *wanted, "-out", f"{name}.csr") == 0
    made = [
        "-in",
        f"{name}.csr",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-copy_extensions",
        "copy",
        "-out",
        f"{name}.pem",
    ]
    assert openssl(folder, "x509", "-req", *made) == 0


FOREIGN = {
    "name": "DNS:bank.example",
    "wildcard": "DNS:*.example",
    "beside": f"DNS:{DOMAIN}.example",
    "mixed": f"DNS:{DOMAIN},DNS:bank.example",
    "address": "IP:192.0.2.1",
    "loopback": "IP:127.0.0.1",
    "mixed-address": f"DNS:{DOMAIN},IP:192.0.2.1",
    "address6": "IP:2001:db8::1",
    "mail": "email:root@bank.example",
    "mail-of-the-domain": f"email:root@{DOMAIN}",
    "uri": "URI:https://bank.example/",
    "uri-of-the-domain": f"URI:https://{DOMAIN}/",
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_the_authority_can_vouch_for_its_domain_only(tmp_path: Path, kind: str) -> None:
    """Users have all their programs trust it: a stolen key must be worth nothing elsewhere."""
    folder = own_certificate(tmp_path, DOMAIN).chain.parent
    for strict in ((), ("-x509_strict",)):
        verify = ("verify", *strict, "-CAfile", "ca.pem", "-purpose", "sslserver")
        assert openssl(folder, *verify, "-verify_hostname", f"x-y.{DOMAIN}", "server.pem") == 0
    signed(folder, kind, f"subjectAltName={FOREIGN[kind]}")
    assert openssl(folder, "verify", "-CAfile", "ca.pem", f"{kind}.pem") != 0


def test_the_authority_vouches_for_servers_only(tmp_path: Path) -> None:
    folder = own_certificate(tmp_path, DOMAIN).chain.parent
    signed(folder, "own", f"subjectAltName=DNS:a.{DOMAIN}")
    signed(folder, "mail", subject="/CN=x/emailAddress=root@bank.example")
    assert openssl(folder, "verify", "-CAfile", "ca.pem", "-purpose", "sslserver", "own.pem") == 0
    assert openssl(folder, "verify", "-CAfile", "ca.pem", "mail.pem") != 0
    signed(folder, "bare", subject="/CN=bank.example")
    assert openssl(folder, "verify", "-CAfile", "ca.pem", "bare.pem") != 0
    for purpose in ("sslclient", "smimesign", "codesign"):
        assert openssl(folder, "verify", "-CAfile", "ca.pem", "-purpose", purpose, "own.pem") != 0, purpose


@pytest.mark.parametrize("kind", ["name", "address", "loopback", "mixed-address"])
async def test_clients_refuse_what_else_it_has_signed(tmp_path: Path, kind: str) -> None:
    folder = own_certificate(tmp_path, DOMAIN).chain.parent
    signed(folder, kind, f"subjectAltName={FOREIGN[kind]}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / f"{kind}.pem", folder / f"{kind}.key")
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    name = FOREIGN[kind].rpartition(":")[2] if kind != "mixed-address" else DOMAIN
    with pytest.raises(ssl.SSLCertVerificationError, match=r"permitted subtree violation|excluded subtree violation"):
        await asyncio.open_connection("127.0.0.1", port, ssl=trusting(tmp_path), server_hostname=name)
    server.close()
    await server.wait_closed()


def test_an_authority_without_all_constraints_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that an earlier release made: its certificates are renewed at the next start, once."""
    with monkeypatch.context() as earlier:
        earlier.setattr(certificates, "_constraints", lambda domain: f"nameConstraints=critical,permitted;DNS:{domain}")
        old = own_certificate(tmp_path, DOMAIN)
        assert old.authority is not None
        before = old.authority.read_bytes()
    new = own_certificate(tmp_path, DOMAIN)
    assert new == old
    assert new.authority is not None
    assert new.bundle is not None
    after = new.authority.read_bytes()
    assert after != before
    assert after in new.bundle.read_bytes()
    assert before not in new.bundle.read_bytes()
    assert openssl(new.chain.parent, "verify", "-CAfile", "ca.pem", "server.pem") == 0
    own_certificate(tmp_path, DOMAIN)
    assert new.authority.read_bytes() == after
    new.authority.unlink()
    own_certificate(tmp_path, DOMAIN)
    assert openssl(new.chain.parent, "verify", "-CAfile", "ca.pem", "server.pem") == 0


async def test_names_of_the_domain_are_trusted(tmp_path: Path) -> None:
    directory = MemoryDirectory()
    directory.add()
    async with serving(answering(OK)) as port, secure_edge(tmp_path, directory) as edge:
        name = f"{port}-{next(iter(directory.running))}.{DOMAIN}"
        reader, writer = await asyncio.open_connection(
            *edge.tls_addresses[0], ssl=trusting(tmp_path), server_hostname=name
        )
        writer.write(f"GET / HTTP/1.1\r\nHost: {name}:3443\r\n\r\n".encode())
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection(
                *edge.tls_addresses[0], ssl=trusting(tmp_path), server_hostname="other.example"
            )


async def test_strangers_that_do_not_shake_hands(tmp_path: Path) -> None:
    """They are let go in time, and they take no more places than there are."""
    limits = Limits(head_time=2.0, connections=4)
    async with secure_edge(tmp_path, MemoryDirectory(), limits=limits) as edge:
        address = edge.tls_addresses[0]
        silent = [await asyncio.open_connection(*address) for _ in range(4)]
        reader, writer = await asyncio.open_connection(*address)
        assert await reader.read() == b""  # no place
        writer.close()
        for reader, writer in silent:
            assert await reader.read() == b""
            writer.close()
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert not (await reader.read()).startswith(b"HTTP")
        writer.close()
        name = f"api.{DOMAIN}"
        _, writer = await asyncio.open_connection(*address, ssl=trusting(tmp_path), server_hostname=name)
        writer.close()


async def test_renewed_files_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "_LOOK_SECONDS", 0.02)
    old, new = own_certificate(tmp_path / "old", DOMAIN), own_certificate(tmp_path / "new", DOMAIN)
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    shutil.copy(old.chain, chain)
    shutil.copy(old.key, key)
    settings = Settings(tls_certificate=chain, tls_key=key)
    async with tls.tls_of(settings) as context, edge_for(MemoryDirectory(), ssl_context=context) as edge:

        async def shown() -> str:
            lax = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            lax.check_hostname, lax.verify_mode = False, ssl.CERT_NONE
            _, writer = await asyncio.open_connection(*edge.tls_addresses[0], ssl=lax)
            peer = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            writer.close()
            return ssl.DER_cert_to_PEM_cert(peer)

        assert await shown() == old.chain.read_text()
        shutil.copy(new.chain, chain)  # the key comes a moment later: until then the old pair serves
        await asyncio.sleep(0.2)
        assert await shown() == old.chain.read_text()
        shutil.copy(new.key, key)
        async with asyncio.timeout(30):
            while await shown() != new.chain.read_text():
                await asyncio.sleep(0.02)


def test_settings_and_files_that_are_wrong(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="belong together"):
        Settings(tls_certificate=tmp_path / "chain.pem")
    with pytest.raises(ValueError, match="tls_host is"):
        Settings(authentication=False, tls_host=("0.0.0.0",))
    certificate = own_certificate(tmp_path, DOMAIN)
    certificate.key.write_text("no key")
    with pytest.raises(CertificateError, match="cannot be used"):
        server_context(certificate)
