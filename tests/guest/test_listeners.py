"""Ports that are held by one process, and lent to others of its choice."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import stat
import threading
from typing import TYPE_CHECKING

import pytest

from sandpit.guest.agent.control import lender
from sandpit.guest.agent.control.lender import Lender
from sandpit.guest.agent.control.listeners import hold
from sandpit.guest.interpreter.ports import borrow, borrowed_before

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    """A free port, which may be lent; none that the kernel gives to connections of other programs meanwhile."""
    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        first = int(file.read().split()[0])
    number = next(one for one in iter(lambda: random.randrange(10_000, first), None) if binds("::", one))
    monkeypatch.setattr(lender, "PORTS", frozenset({number}))
    return number


@pytest.fixture
def lending(tmp_path: Path) -> Iterator[Path]:
    """Where a lender answers; it runs in a loop of its own."""
    loop = asyncio.new_event_loop()
    path = tmp_path / "ports/lend.sock"
    own = Lender("0.0.0.0")

    async def begin() -> None:
        own.listen(path)

    loop.run_until_complete(begin())
    with running(loop):
        yield path
    loop.remove_reader(own._listener.fileno())
    own._listener.close()
    for held in own._held.values():
        held.close()
    loop.close()


@contextlib.contextmanager
def running(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


def binds(address: str, port: int, *options: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as s:
        for option in options:
            s.setsockopt(socket.SOL_SOCKET, option, 1)
        try:
            s.bind((address, port))
        except OSError:
            return False
        return True


OPTIONS = [(), (socket.SO_REUSEADDR,), (socket.SO_REUSEPORT,), (socket.SO_REUSEADDR, socket.SO_REUSEPORT)]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("address", ["0.0.0.0", "127.0.0.1", "127.0.0.2", "::", "::1", "::ffff:127.0.0.1"])
def test_a_held_port_is_nobody_elses(port: int, address: str, options: tuple[int, ...]) -> None:
    assert binds(address, port, *options)
    held = hold("0.0.0.0", port)
    assert not binds(address, port, *options)
    held.close()
    assert binds(address, port, *options)


def test_remains_of_connections_do_not_matter(port: int) -> None:
    """TIME_WAIT at the port: left by a sandbox that had the network namespace before."""
    held = hold("0.0.0.0", port)
    with socket.create_connection(("127.0.0.1", port)) as client:
        accepted, _ = held.listener.accept()
        accepted.close()
        assert client.recv(1) == b""
    held.close()
    hold("0.0.0.0", port).close()


def test_what_listens_already_is_an_error(port: int) -> None:
    for address in ("127.0.0.1", "::1"):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.create_server((address, port), family=family), pytest.raises(OSError, match="in use"):
            hold("0.0.0.0", port)
    hold("0.0.0.0", port).close()


def test_a_port_is_lent_again_and_again(lending: Path, port: int) -> None:
    assert stat.S_IMODE(lending.stat().st_mode) == 0o600
    assert stat.S_IMODE(lending.parent.stat().st_mode) == 0o700
    assert borrowed_before(lending, port) is None
    for _ in range(2):
        with borrow(lending, "0.0.0.0", port) as listener, socket.create_connection(("127.0.0.1", port)) as client:
            listener.setblocking(True)
            accepted, _ = listener.accept()
            with accepted:
                client.sendall(b"x")
                assert accepted.recv(1) == b"x"
        assert not binds("127.0.0.1", port, socket.SO_REUSEADDR)
    waits = socket.create_connection(("127.0.0.1", port))
    waits.sendall(b"early")
    found = borrowed_before(lending, port)
    assert found is not None
    with waits, found:
        found.setblocking(True)
        accepted, _ = found.accept()
        with accepted:
            assert accepted.recv(9) == b"early", "what came in between is served by the next borrower"


@pytest.mark.parametrize(
    "request_line", [b"open 22\n", b"open\n", b"\n", b"give 49999\n", b"open -1\n", b"open x\n", b"\xff" * 40]
)
def test_the_lender_refuses(lending: Path, request_line: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(10)
        s.connect(str(lending))
        s.sendall(request_line)
        answer, descriptors, _, _ = socket.recv_fds(s, 500, 1)
    assert answer.startswith(b"-")
    assert descriptors == []


def test_a_port_that_somebody_has_is_not_lent(lending: Path, port: int) -> None:
    with socket.create_server(("127.0.0.1", port)), pytest.raises(OSError, match="in use"):
        borrow(lending, "0.0.0.0", port)


def test_without_a_lender_the_port_is_ones_own(tmp_path: Path, port: int) -> None:
    with borrow(tmp_path / "nothing", "127.0.0.1", port) as listener:
        assert listener.getsockname()[1] == port
        assert os.get_inheritable(listener.fileno()) is False
    assert borrowed_before(tmp_path / "nothing", port) is None
