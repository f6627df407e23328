"""The doctor notices a proxy that inspects TLS, and names the setting."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from tests.cli.conftest import Cli

from sandpit.cli.doctor import tls as checks_tls
from sandpit.cli.doctor.tls import Seen, look
from sandpit.server.certificates import own_certificate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sandpit.server.certificates import Certificate

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a mount namespace needs root")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """An authority that nobody else trusts, and a certificate of it for `localhost`."""
    return own_certificate(tmp_path_factory.mktemp("authority"), "localhost")


@contextmanager
def serving(context: ssl.SSLContext | None) -> Iterator[int]:
    """A server on loopback that shakes hands; without a context, one that never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_serve, args=(listener, context))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _serve(listener: socket.socket, context: ssl.SSLContext | None) -> None:
    held = []
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            break
        if context is None:
            held.append(connection)
            continue
        try:
            context.wrap_socket(connection, server_side=True).close()
        except OSError:
            connection.close()
    for connection in held:
        connection.close()


def server_context(certificate: Certificate) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.load(context)
    return context


@needs_root
@pytest.mark.parametrize(
    ("trusted", "passed", "state"), [(True, False, "warning"), (True, True, "ok"), (False, False, "warning")]
)
def test_it_is_noticed(
    cli: Cli, certificate: Certificate, tmp_path: Path, *, trusted: bool, passed: bool, state: str
) -> None:
    """In a mount namespace in which this machine trusts the authority, or does not; what pip is told names the server."""
    bundle = tmp_path / "bundle.pem"
    assert certificate.authority is not None
    shutil.copyfile("/etc/ssl/certs/ca-certificates.crt", bundle)
    if trusted:
        bundle.write_text(bundle.read_text() + certificate.authority.read_text())
    script = 'mount --bind "$1" /etc/ssl/certs/ca-certificates.crt && shift && exec "$@"'
    command = [sys.executable, "-P", "-m", "sandpit.cli", "doctor", "--json"]
    with serving(server_context(certificate)) as port:
        environment = cli.environment | {
            "PIP_CONFIG_FILE": "/dev/null",
            "PIP_INDEX_URL": f"https://localhost:{port}/simple",
            "NO_PROXY": "localhost",
            "SANDPIT_PASS_HOST_CA": "true" if passed else "false",
        }
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", script, "sh", str(bundle), *command],
            env=environment, capture_output=True, text=True, check=False, timeout=55,
        )  # fmt: skip
    row = next(row for row in json.loads(done.stdout)["checks"] if row["check"] == "inspected TLS")
    assert row["state"] == state
    assert "localhost" in row["detail"]
    if state == "warning":
        assert "SANDPIT_PASS_HOST_CA" in row["fix"]
    assert ("neither this machine" in row["detail"]) == (not trusted)


def test_a_public_authority_is_no_inspection(certificate: Certificate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "localhost")
    everybody = ssl.create_default_context(cafile=str(certificate.authority))
    monkeypatch.setattr(checks_tls, "_public_authorities", lambda: everybody)
    with serving(server_context(certificate)) as port:
        assert look([("localhost", port)], 5) == [Seen("localhost", public=True, issuer="")]


def test_a_server_that_does_not_answer_takes_little_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "localhost")
    with serving(None) as port:
        begun = time.monotonic()
        assert look([("localhost", port)], 0.5) == []
        assert time.monotonic() - begun < 3  # connections have a limit of their own, too
        time.sleep(0.1)
    wait_for_threads()


def test_npms_registry_is_asked_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("npm_config_registry", "NPM_CONFIG_REGISTRY"):
        monkeypatch.delenv(name, raising=False)
    settings = tmp_path / "npmrc"
    settings.write_text("audit=false\nregistry = https://registry.example.net:8443/npm/\n")
    monkeypatch.setenv("NPM_CONFIG_USERCONFIG", str(settings))
    assert ("registry.example.net", 8443) in checks_tls._hosts()


def test_offline_nothing_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert look([("localhost", port)], 5) == []


def wait_for_threads() -> None:
    """The look that was left behind ends by its own limit."""
    deadline = time.monotonic() + 10
    while threading.active_count() > 1 and time.monotonic() < deadline:
        time.sleep(0.05)
