"""100 MB into a sandbox and out of it, against plain TCP over the same link, and the memory that this takes."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import e2b
import psutil

from benchmarks.rig import Rig, rig
from benchmarks.series import Measurement, Target
from benchmarks.subjects import inside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.subjects import Scale

NAME = "transfer"
_SIZE = 100_000_000
_PORT = 5001
_FLAT_MB = 32
"""Growth that is no copy of the file, nor a part of one that matters."""


def measure(scale: Scale) -> Iterator[Measurement]:
    data = bytes(_SIZE)
    with rig(pool=1) as made:
        made.settle()
        with e2b.Sandbox.create(timeout=3600) as sandbox:
            address = str(made.live._network.network_address + made.record(sandbox.sandbox_id)["slot"])
            sandbox.files.write("/tmp/sink.py", inside.SINK)
            sandbox.commands.run(f"python3 /tmp/sink.py {_PORT}", background=True, timeout=0)
            made.settle()

            def upload() -> None:
                sandbox.files.write("/home/user/data", data)

            def download() -> None:
                size = sum(len(chunk) for chunk in sandbox.files.read("/home/user/data", format="stream"))
                assert size == _SIZE

            for name, work, sign in (("upload", upload, 1), ("download", download, -1)):
                yield from _rows(made, sandbox, name, work, lambda s=sign: _tcp(address, s * _SIZE), scale.runs(8, 1))  # type: ignore[misc]


def _rows(
    made: Rig, sandbox: Any, name: str, work: Callable[[], None], reference: Callable[[], None], runs: int
) -> Iterator[Measurement]:
    values, references, server, agent = [], [], [], []
    work()
    for _ in range(runs):
        agent_before = _agent_memory(sandbox)
        with _peak(made.live.process.pid) as grown:
            values.append(_speed(work))
        server.append(max(grown))
        agent.append(max(0.0, _agent_memory(sandbox) - agent_before))
        references.append(_speed(reference))
    targets = (Target("p50", 300, at_least=True),)
    yield Measurement(f"{name} of 100 MB", "MB/s", values, "TCP over the link", references, targets)
    yield Measurement(f"{name}: server memory", "MB more", server, targets=(Target("max", _FLAT_MB),))
    yield Measurement(f"{name}: agent memory", "MB more", agent, targets=(Target("max", _FLAT_MB),))


def _speed(work: Callable[[], None]) -> float:
    """Megabytes per second."""
    began = time.perf_counter()
    work()
    return _SIZE / 1e6 / (time.perf_counter() - began)


def _tcp(address: str, size: int) -> None:
    """Send (positive) or receive as many bytes, by plain sockets."""
    with socket.create_connection((address, _PORT), timeout=60) as connection:
        connection.sendall(size.to_bytes(8, "big", signed=True))
        piece = memoryview(bytearray(1 << 20))
        left = abs(size)
        while left:
            if size > 0:
                connection.sendall(piece[: min(left, len(piece))])
                left -= min(left, len(piece))
            else:
                left -= connection.recv_into(piece[: min(left, len(piece))])
        assert connection.recv(1) == b"+"


@contextmanager
def _peak(pid: int) -> Iterator[list[float]]:
    """Samples of how many megabytes a process has grown by, while the body runs."""
    process, done = psutil.Process(pid), threading.Event()
    before, grown = process.memory_info().rss, [0.0]

    def sample() -> None:
        while not done.wait(0.01):
            grown.append((process.memory_info().rss - before) / 1e6)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield grown
    finally:
        done.set()
        thread.join()


def _agent_memory(sandbox: Any) -> float:
    """The agent's largest resident size until now, in megabytes."""
    status = sandbox.commands.run("grep VmRSS /proc/1/status", user="root").stdout
    return int(status.split()[1]) * 1024 / 1e6
