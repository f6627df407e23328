"""What every version of the Python clients must do with nothing but the variables of `sandpit env`. Prints the hosts that it looked up."""

from __future__ import annotations

import importlib.metadata
import ssl
import sys
import time
import urllib.error
import urllib.request

HOSTS: set[str] = set()


def note(event, arguments):
    """Keep the names that are looked up (audit events of the socket module)."""
    if event == "socket.getaddrinfo" and arguments[0] is not None:
        host = arguments[0]
        HOSTS.add(host.decode() if isinstance(host, bytes) else host)


def fetched(host):
    """What a server in the sandbox answers to a plain client, at the address that the client gives for it."""
    deadline = time.monotonic() + 20
    while True:
        try:
            with urllib.request.urlopen(f"https://{host}/", context=ssl.create_default_context(), timeout=10) as answer:
                return answer.read()
        except (urllib.error.URLError, OSError):
            assert time.monotonic() < deadline, f"nothing answers at {host}"
            time.sleep(0.2)


def use_sandbox():
    from e2b import Sandbox

    first = tuple(map(int, importlib.metadata.version("e2b").split(".")[:1]))
    sandbox = Sandbox.create(timeout=60) if first >= (2,) else Sandbox(timeout=60)
    try:
        assert sandbox.commands.run("echo $((6 * 7))").stdout == "42\n"
        sandbox.files.write("/tmp/page/index.html", "mine\n")
        assert sandbox.files.read("/tmp/page/index.html") == "mine\n"
        sandbox.commands.run("python3 -m http.server 8000 -d /tmp/page", background=True, timeout=0)
        assert fetched(sandbox.get_host(8000)) == b"mine\n"
        again = Sandbox.connect(sandbox.sandbox_id)
        assert again.commands.run("echo again").stdout == "again\n"
    finally:
        sandbox.kill()


def run_cell():
    from e2b_code_interpreter import Sandbox

    sandbox = Sandbox.create(timeout=60) if hasattr(Sandbox, "create") else Sandbox(timeout=60)
    try:
        assert sandbox.run_code("21 * 2").text == "42"
    finally:
        sandbox.kill()


sys.addaudithook(note)
use_sandbox()
run_cell()
print(*sorted(HOSTS))
