"""The server's own certificate authority, for clients that speak TLS only (legacy-protocol 1.4, R1).

Made with openssl at the first start, in `data_dir/tls/<domain>/`. Keys are the owner's alone; the rest is for everybody:

    ca.pem, ca.key          the authority. It can vouch for TLS servers of this one domain and nothing else: see `_constraints`
    server.pem, server.key  the certificate for the domain and all names one label below it
    bundle.pem              this machine's usual authorities and ours: for programs that take one file for all they trust
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import ssl
import subprocess
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from sandpit.lib import programs
from sandpit.lib.private import passable

log = logging.getLogger(__name__)
_DAYS = "3650"
_SYSTEM_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
_OURS = "# Sandpit\n"


class CertificateError(RuntimeError):
    """A certificate cannot be made or read. The message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """What TLS is served with; `authority` and `bundle` are None for a certificate that others have signed."""

    chain: Path
    key: Path
    authority: Path | None = None
    bundle: Path | None = None

    def load(self, context: ssl.SSLContext) -> None:
        """Have `context` use it, for connections from now on. Raises: CertificateError."""
        try:
            # Tried on another one first: a failure, for instance between the renewals of the two files, must not harm `context`.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.chain, self.key)
            context.load_cert_chain(self.chain, self.key)
        except (OSError, ssl.SSLError) as error:
            raise CertificateError(f"{self.chain} and {self.key} cannot be used for TLS: {error}") from error

    def stamp(self) -> tuple[int, ...]:
        """Changes when the files do. Raises: OSError."""
        return tuple(path.stat().st_mtime_ns for path in (self.chain, self.key))


def server_context(certificate: Certificate) -> ssl.SSLContext:
    """For HTTP/1.1 on the edge. Raises: CertificateError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    certificate.load(context)
    return context


def own_certificate(data_dir: Path, domain: str) -> Certificate:
    """The certificate for `domain`, `*.domain` and localhost; made when there is none that is whole, or its authority could vouch for more.

    Raises: CertificateError.
    """
    folder = data_dir / "tls" / domain
    certificate = located(data_dir, domain)
    try:
        made = not (_is_whole(folder, certificate) and _is_constrained(folder))
        if made:
            _make(folder, domain)
        with nullcontext() if made else suppress(OSError):  # on a full disk the bundle of the last start does, too
            _write_bundle(folder)
    except subprocess.SubprocessError as error:
        words = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else str(error)
        raise CertificateError(f"openssl, from `sandpit prepare`, made no certificate for {domain}: {words}") from error
    except OSError as error:
        raise CertificateError(f"no certificate can be kept in {folder}: {error}") from error
    return certificate


def located(data_dir: Path, domain: str) -> Certificate:
    """Where the certificate for `domain` is, made or not."""
    folder = data_dir / "tls" / domain
    return Certificate(folder / "server.pem", folder / "server.key", folder / "ca.pem", folder / "bundle.pem")


def _constraints(domain: str) -> str:
    """What the authority may vouch for (RFC 5280, 4.2.1.10): names of the domain and localhost.

    A kind of name without a constraint is free. So addresses are excluded altogether; for mail addresses and URIs, where programs
    disagree on what excludes all of them, one host is permitted that cannot exist (RFC 6761, 6.4). The authority's extended key usage,
    TLS servers, keeps it from vouching for clients, mail and code.
    """
    names = [f"permitted;DNS:{domain}", "permitted;DNS:localhost"]
    addresses = ["excluded;IP:0.0.0.0/0.0.0.0", "excluded;IP:0:0:0:0:0:0:0:0/0:0:0:0:0:0:0:0"]
    others = ["permitted;email:nobody.invalid", "permitted;URI:nobody.invalid"]
    return f"nameConstraints=critical,{','.join(names + addresses + others)}"


def _is_constrained(folder: Path) -> bool:
    """Whether the authority has all constraints: those made before November 2026 had none for addresses, mail and URIs."""
    try:
        shown = _openssl(folder, "x509", "-in", "ca.pem", "-noout", "-ext", "nameConstraints,extendedKeyUsage")
    except subprocess.CalledProcessError:  # it is gone, or damaged: nobody can go on to trust it
        return False
    return all(part in shown for part in ("Excluded:", "IP:0.0.0.0/0.0.0.0", "email:", "URI:", "TLS Web Server"))


def _is_whole(folder: Path, certificate: Certificate) -> bool:
    """Whether all files are there and belong together: a machine that lost power may have kept some only. Raises: OSError."""
    if not folder.exists():
        return False
    try:
        certificate.load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(certificate.authority)
    except (CertificateError, OSError) as error:
        log.warning("the certificate in %s is made anew, with a new authority: %s", folder, error)
        return False
    return True


def _make(folder: Path, domain: str) -> None:
    """Make authority and certificate; the folder appears when it is complete and on disk."""
    making = folder.with_name(f".{domain}.new")
    shutil.rmtree(making, ignore_errors=True)
    for directory in (folder.parent, making):
        passable(directory)
    names = f"DNS:{domain},DNS:*.{domain},DNS:localhost"
    _openssl(
        making, "req", "-x509", *_new_key("ca.key"), "-days", _DAYS, "-out", "ca.pem",
        "-subj", f"/O=Sandpit/CN=Sandpit's own authority for {domain}",
        "-addext", "basicConstraints=critical,CA:TRUE,pathlen:0", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
        "-addext", "extendedKeyUsage=serverAuth", "-addext", _constraints(domain),
    )  # fmt: skip
    _openssl(making, "req", *_new_key("server.key"), "-out", "server.csr", "-subj", f"/CN={domain}")
    (making / "extensions").write_text(
        f"subjectAltName={names}\nextendedKeyUsage=serverAuth\nbasicConstraints=critical,CA:FALSE\n"
        "authorityKeyIdentifier=keyid\nsubjectKeyIdentifier=hash\n"
    )
    _openssl(
        making, "x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
        "-days", _DAYS, "-extfile", "extensions", "-out", "server.pem",
    )  # fmt: skip
    for name in ("server.csr", "extensions", "ca.srl"):
        (making / name).unlink(missing_ok=True)
    for path in making.iterdir():
        path.chmod(0o600 if path.suffix == ".key" else 0o644)
        _sync(path)
    if folder.exists():
        folder.rename(folder.with_name(f".{domain}.{secrets.token_hex(4)}.damaged"))
    making.rename(folder)
    _sync(folder.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _new_key(name: str) -> list[str]:
    return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", name]


def _openssl(folder: Path, *arguments: str) -> str:
    umask = ("sh", "-c", 'umask 077 && exec "$@"', "sh")
    return programs.call(*umask, "openssl", *arguments, cwd=folder, check=True, timeout=60).stdout


def _write_bundle(folder: Path) -> None:
    """Anew at each start: the machine's authorities change with its updates."""
    usual = ssl.get_default_verify_paths().cafile
    system = next((path for path in (_SYSTEM_BUNDLE, Path(usual or "/nonexistent")) if path.exists()), None)
    text = (system.read_text(errors="replace").rstrip() + "\n" if system else "") + _OURS
    bundle = folder / "bundle.pem"
    new = folder / "bundle.new"
    new.write_text(text + (folder / "ca.pem").read_text())
    new.chmod(0o644)
    new.rename(bundle)
