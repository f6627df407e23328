"""A sandbox that takes all it can get: it may die, its neighbour and the server may not notice."""

from __future__ import annotations

import base64
import contextlib
import shlex
import threading
from typing import TYPE_CHECKING

import httpx
import pytest
from tests import leaks
from tests.abuse.front import FrontBox
from tests.live import Live
from tests.machines import RUNTIMES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Create = Callable[..., FrontBox]

pytestmark = pytest.mark.timeout(180)

BOMBS = {
    "forks": "bomb() { bomb | bomb & }; bomb; sleep 2",
    "memory": "python3 -c 'kept = [bytearray(b\"x\") * (1 << 24) for _ in range(1000)]'",
    "inodes": "mkdir /many && cd /many && python3 -c 'for n in range(10 ** 7): open(str(n), \"w\").close()'",
    "descriptors": "for i in 1 2 3 4; do python3 -c 'import os\nk = []\nwhile True: k.append(os.pipe())' & done; wait",
    "threads": "python3 -c 'import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(9,)).start()'",
}


@pytest.fixture(scope="module", params=RUNTIMES)
def host(built_images: None, request: pytest.FixtureRequest) -> Iterator[Live]:
    """A server whose sandboxes all have one runtime."""
    server = Live({"SANDPIT_RUNTIME": str(request.param), "SANDPIT_POOL__SIZE": "0"})
    leaks.kept.add(server.name)
    server.start()
    yield server
    server.stop()
    server.remove()


@pytest.fixture
def pair(host: Live) -> Iterator[tuple[FrontBox, FrontBox]]:
    """A sandbox to be noisy, and its neighbour."""
    boxes = FrontBox.create(host, timeout=600), FrontBox.create(host, timeout=600)
    yield boxes
    for box in boxes:
        box.kill()


def check_others(host: Live, neighbour: FrontBox) -> None:
    """The neighbour works in all ways, and the server takes requests."""
    assert neighbour.alive()
    with neighbour.http() as http:
        form = {"file": ("f", b"content")}
        assert http.post("/files", params={"path": "/tmp/f"}, files=form).status_code == 200
        assert http.get("/files", params={"path": "/tmp/f"}).text == "content"
    assert host.api.get(f"/sandboxes/{neighbour.id}").json()["state"] == "running"


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs(host: Live, pair: tuple[FrontBox, FrontBox], bomb: str) -> None:
    noisy, neighbour = pair
    thrown = threading.Thread(target=throw, args=(noisy, BOMBS[bomb]))
    thrown.start()
    check_others(host, neighbour)
    thrown.join()
    answer = host.api.get(f"/sandboxes/{noisy.id}")
    assert answer.status_code in (200, 404)
    assert host.api.delete(f"/sandboxes/{noisy.id}").status_code == (204 if answer.status_code == 200 else 404)
    noisy.closed = True
    check_others(host, neighbour)


def throw(box: FrontBox, command: str) -> None:
    """Run what may end the sandbox."""
    with contextlib.suppress(AssertionError, httpx.TransportError):
        box.run(f"timeout -s KILL 3 bash -c {shlex.quote(command)} 2>/dev/null")


def test_a_full_disk_of_its_own(host: Live, pair: tuple[FrontBox, FrontBox]) -> None:
    """It is full at its size, whatever the host's has left."""
    noisy, neighbour = pair
    size = int(noisy.sh("df -B1 --output=avail / | tail -1"))
    assert size < 11 << 30
    noisy.sh(f"fallocate -l {size - (64 << 20)} /reserved || truncate -s 1 /reserved")
    check_others(host, neighbour)


def test_file_watches_cannot_be_used_up_for_others(host: Live, pair: tuple[FrontBox, FrontBox]) -> None:
    """Linux counts them for the host's root, over all sandboxes of crun together."""
    noisy, neighbour = pair
    count = (
        "import ctypes, time\n"
        "libc = ctypes.CDLL(None)\n"
        "n = 0\n"
        "while n < 5000 and libc.inotify_init1(0) >= 0: n += 1\n"
        "print(n, flush=True)\n"
    )
    watch = ("filesystem.Filesystem/CreateWatcher", {"path": "/tmp"})
    hold = shlex.quote(f"{count}time.sleep(600)")
    with noisy.start(f"for i in 1 2 3; do python3 -c {hold} & done; wait") as events:
        said = b""
        while said.count(b"\n") < 3:
            said += b"".join(base64.b64decode(part) for part in next(events).get("data", {}).values())
        assert int(neighbour.sh(f"python3 -c {shlex.quote(count)}")) >= 128
        assert neighbour.call(*watch).status_code == 200
        later = FrontBox.create(host)
        assert later.call(*watch).status_code == 200
        later.kill()
        with open("/proc/sys/fs/inotify/max_user_instances") as file:
            assert int(file.read()) > 3 * 256 + 128  # the host's own services have theirs


def test_many_watched_files(host: Live, pair: tuple[FrontBox, FrontBox]) -> None:
    noisy, neighbour = pair
    noisy.sh('mkdir /w && cd /w && for i in $(seq 10); do mkdir -p $(printf "$i/%s " $(seq 100)); done')
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            message = {"path": "/w", "recursive": True}
            answer = stack.enter_context(noisy.stream("filesystem.Filesystem/WatchDir", message))
            assert answer.status_code == 200
        writer = threading.Thread(target=noisy.run, args=("cd /w; for i in 1 2; do touch */*/f; rm */*/f; done",))
        writer.start()
        check_others(host, neighbour)
        writer.join()
    assert noisy.alive()


def test_a_flood_of_output_to_everybody(host: Live, pair: tuple[FrontBox, FrontBox]) -> None:
    """Several commands write as fast as they can, and their reader takes all of it."""
    noisy, neighbour = pair
    stop = threading.Event()

    def drink() -> None:
        message = {"process": {"cmd": "head", "args": ["-c", "1000000000", "/dev/zero"]}, "stdin": False}
        with noisy.stream("process.Process/Start", message) as got:
            for _ in got.iter_raw():
                if stop.is_set():
                    return

    drinkers = [threading.Thread(target=drink) for _ in range(2)]
    for drinker in drinkers:
        drinker.start()
    try:
        for _ in range(3):
            check_others(host, neighbour)
    finally:
        stop.set()
        for drinker in drinkers:
            drinker.join()
    noisy.sh("pkill -KILL head; true")
