"""What the operator's machine trusts, sandboxes trust if the operator says so: an authority that a proxy which inspects TLS signs with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.machines import Machine
from tests.node.conftest import base

from sandpit.node.sandboxes import trust
from sandpit.server.certificates import own_certificate

if TYPE_CHECKING:
    from pathlib import Path

    from tests.machines import Box

    from sandpit.server.certificates import Certificate

SERVER = """
import functools, http.server, ssl
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/srv/server.pem", "/srv/server.key")
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory="/srv/www")
server = http.server.ThreadingHTTPServer(("127.0.0.1", 8443), handler)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""
CONTENT = """
import json, os, zipfile
os.makedirs("/srv/www/simple/demo")
os.makedirs("/srv/www/npm")
wheel = "demo-1.0-py3-none-any.whl"
open("/srv/www/simple/demo/index.html", "w").write(f'<a href="/{wheel}">{wheel}</a>')
with zipfile.ZipFile(f"/srv/www/{wheel}", "w") as archive:
    archive.writestr("demo.py", "")
    archive.writestr("demo-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: demo\\nVersion: 1.0\\n")
    archive.writestr("demo-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
    archive.writestr("demo-1.0.dist-info/RECORD", "")
version = {"name": "demo", "version": "1.0.0", "dist": {"tarball": "https://localhost:8443/npm/demo.tgz"}}
open("/srv/www/npm/demo", "w").write(json.dumps(
    {"name": "demo", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
))
"""
REPOSITORY = """
cd /srv && git init -q --bare www/repository.git && git init -q work && cd work && echo text > file && git add file
git -c user.name=x -c user.email=x@example.com commit -qm first && git push -q ../www/repository.git HEAD:main
cd ../www/repository.git && git symbolic-ref HEAD refs/heads/main && git update-server-info
"""
FETCHES = {
    "curl": "curl -sS -o /dev/null https://localhost:8443/simple/demo/",
    "pip": "cd /tmp && pip download -q --no-deps --index-url https://localhost:8443/simple demo",
    "npm": "npm view demo version --registry https://localhost:8443/npm/ --fetch-retries 0",
    "git": "cd /tmp && git clone -q https://localhost:8443/repository.git cloned",
}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """An authority that nobody else trusts, and a certificate of it for `localhost`."""
    return own_certificate(tmp_path_factory.mktemp("authority"), "localhost")


def serve(box: Box, certificate: Certificate) -> None:
    """Have a package index, a registry and a repository in the sandbox, behind TLS."""
    for name, path in (("server.pem", certificate.chain), ("server.key", certificate.chain.with_name("server.key"))):
        box.sh(f"mkdir -p /srv; cat > /srv/{name} <<'END'\n{path.read_text()}\nEND")
    box.python(CONTENT)
    box.sh(REPOSITORY)
    box.sh(f"cat > /srv/server.py <<'END'\n{SERVER}\nEND")
    answers = "curl -sk https://localhost:8443/ -o /dev/null"
    box.sh(
        f"python3 /srv/server.py > /srv/log 2>&1 & for i in $(seq 100); do {answers} && exit; sleep 0.1; done; exit 1"
    )


@pytest.mark.parametrize("runtime", ["crun"])
def test_tools_trust_the_machines_authorities_if_told(
    certificate: Certificate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, box: Box, runtime: str
) -> None:
    assert certificate.authority is not None
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(certificate.authority.read_bytes())
    monkeypatch.setattr(trust, "_HOST_BUNDLES", (bundle,))
    machine = Machine.make([base(runtime)], trust=trust.of_host())
    machine.start()
    try:
        told = machine.create(f"base-{runtime}")
        serve(told, certificate)
        failures = {name: told.run(command, "user") for name, command in FETCHES.items()}
        assert {name: output for name, (status, output) in failures.items() if status} == {}
    finally:
        machine.stop()
        machine.remove()
    serve(box, certificate)
    assert [name for name, command in FETCHES.items() if box.run(command, "user")[0] == 0] == [], "not told"
