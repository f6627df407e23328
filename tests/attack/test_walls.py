"""The walls behind the runtimes: what other users of the host, and a sandbox, can get hold of."""

from __future__ import annotations

import base64
import os
import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests import leaks
from tests.attack import walls
from tests.attack.walls import Nobody
from tests.live import Live

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.abuse.front import FrontBox

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="other users are tried by root"), pytest.mark.timeout(180)]
_SHELL = "cp /bin/bash /set-user-id && chmod 4755 /set-user-id && sync"
_SHARED = ("layers", "closure", "bin", "cache", "roots", "snapshots")
"""Directories of the tests' own cache, which all servers of a run share."""
_FACTS = (
    "cmdline", "config.gz", "diskstats", "partitions", "pressure/cpu", "pressure/io", "pressure/memory", "interrupts",
    "softirqs", "slabinfo", "buddyinfo", "zoneinfo", "modules", "locks", "swaps", "iomem", "ioports", "kallsyms",
    "key-users", "timer_list", "sys/fs/file-nr", "sys/kernel/core_pattern", "sys/kernel/modprobe", "sys/kernel/pty/nr",
)  # fmt: skip


@pytest.fixture
def nobody() -> Iterator[Nobody]:
    with Nobody() as user:
        yield user


def _copies(live: Live) -> list[Path]:
    """Where the host can see the set-user-ID shell of a sandbox as a file."""
    return list((live.data_dir / "sandboxes").glob("*/bundle/*/set-user-id")) + list(
        (live.data_dir / "sandboxes").glob("*/bundle/*/*/set-user-id")
    )


def test_a_set_user_id_shell_of_a_sandbox_gives_nobody_rights(
    server: Live, runtime: str, box: FrontBox, nobody: Nobody
) -> None:
    """While it runs, while it is paused, after that, and in a snapshot of it."""
    box.sh(_SHELL)
    assert "4755" in box.sh("stat -c %a /set-user-id")

    def check() -> None:
        for copy in _copies(server):
            assert not nobody.runs(str(copy), "-p", "-c", "true"), copy
            assert walls.mounts_below(server), "the sandbox's disk is on a mount of its own"
        opened = nobody.open_below(*walls.directories(server))
        assert [path for path in opened if path.suffix != ".pem"] == []
        for point, options in walls.mounts_below(server).items():
            assert {"nosuid", "nodev"} <= options, point
        for pid in walls.processes(server):
            assert not nobody.runs("ls", f"/proc/{pid}/root/"), pid

    check()
    assert (runtime == "crun") == bool(_copies(server)), "crun's disk is what this is about"
    assert server.api.post(f"/sandboxes/{box.id}/snapshots", json={}).status_code == 201
    check()
    assert server.api.post(f"/sandboxes/{box.id}/pause").status_code == 204
    check()
    assert server.api.post(f"/sandboxes/{box.id}/connect", json={"timeout": 60}).status_code in (200, 201)
    assert box.sh("stat -c %a /set-user-id") == "4755"
    check()


def test_the_disk_of_a_paused_sandbox_is_served_without_devices(server: Live, runtime: str, box: FrontBox) -> None:
    """A boot from a disk, which gVisor's gofer serves to the new sandbox."""
    box.sh("echo kept > /kept")
    assert server.api.post(f"/sandboxes/{box.id}/pause", json={"memory": False}).status_code == 204
    assert server.api.post(f"/sandboxes/{box.id}/connect", json={"timeout": 60}).status_code in (200, 201)
    assert box.sh("cat /kept") == "kept"
    for point, options in walls.mounts_below(server).items():
        assert {"nosuid", "nodev"} <= options, point
    if runtime == "gvisor":
        gofers = [pid for pid in walls.processes(server) if _name(pid).startswith("runsc-gofer")]
        assert gofers
        for pid in gofers:
            for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
                assert {"nosuid", "nodev"} <= set(line.split(" ")[5].split(",")), line


def _name(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()


def test_nothing_of_the_server_reaches_a_process_of_a_sandbox(server: Live, box: FrontBox) -> None:
    """Neither its environment nor its descriptors."""
    assert box.alive()
    own = walls.environment(server.process.pid)
    assert "SANDPIT_DATA_DIR" in own
    pids = walls.processes(server)
    assert pids
    for pid in pids:
        given = walls.environment(pid)
        assert not [name for name in given if name.startswith("SANDPIT_")], _name(pid)
        assert set(given) <= {"PATH", "LC_ALL", "HOME"}, (_name(pid), set(given))
        assert walls.descriptors(pid).isdisjoint(walls.descriptors(server.process.pid)), _name(pid)


def test_helpers_of_the_server_have_an_environment_of_their_own(server: Live, create: Callable[..., FrontBox]) -> None:
    """Whatever runs while sandboxes come and go."""
    own = walls.environment(server.process.pid)
    seen = set()
    box = create()
    with box.start("sleep 1") as events:
        for _ in events:
            for child in Path(f"/proc/{server.process.pid}/task").glob("*/children"):
                for pid in child.read_text().split():
                    seen.add(int(pid))
                    try:
                        given = walls.environment(int(pid))
                    except OSError:
                        continue
                    assert not [name for name in given if name.startswith("SANDPIT_") and name in own], _name(int(pid))


def test_a_sandbox_sees_no_paths_and_no_counters_of_the_host(server: Live, runtime: str, box: FrontBox) -> None:
    seen = box.sh("cat /proc/[0-9]*/mountinfo /proc/mounts")
    for path in (*walls.directories(server), Path.cwd(), "sandboxes", "/bundle"):
        assert str(path) not in seen
    for name in _FACTS:
        host = Path("/proc", name)
        status, inside = box.run(f"head -c 100000 /proc/{name} 2>/dev/null | base64 -w0")
        if runtime == "crun" or not host.exists():
            assert (status, inside) == (0, ""), name
        else:
            assert base64.b64decode(inside) != host.read_bytes()[:100000] or not inside, name


def test_sudo_works_where_the_host_sees_no_set_user_id(box: FrontBox) -> None:
    assert box.sh("sudo id -u", user="user") == "0"


def test_state_is_its_owners_alone(nobody: Nobody, built_images: None) -> None:
    """Also that of a server of an earlier release, which left it open: the next start takes that away."""
    live = Live({"SANDPIT_POOL__SIZE": "0", "SANDPIT_TLS": "true", "SANDPIT_BURIED_SECRET": secrets.token_hex(8)})
    leaks.kept.add(live.name)
    for name in ("sandbox-snapshots", "uploads", "selftest"):
        (live.data_dir / name).mkdir(mode=0o755)
        (live.data_dir / name).chmod(0o755)
    (live.data_dir / "images").chmod(0o755)
    for path in (live.data_dir / "images", live.data_dir, live.run_dir):
        path.chmod(0o755)
    (live.data_dir / "server.log").write_text("a line\n")
    (live.data_dir / "server.log").chmod(0o644)
    live.start()
    try:
        certificates = live.data_dir / "tls"
        found = [path for path in nobody.open_below(*walls.directories(live)) if certificates not in path.parents]
        assert found == []
        assert {path.suffix for path in nobody.open_below(certificates)} == {".pem"}
        for entry in live.data_dir.iterdir():
            # Runtimes are executed by users without rights; nobody gets to them from outside, as above.
            if entry.name not in (*_SHARED, "images", "tls", "releases"):
                for path in (entry, *entry.rglob("*")):
                    mode = stat.S_IMODE(path.lstat().st_mode)
                    assert not mode & 0o066 or path.is_symlink(), f"{path} has mode {mode:o}"
    finally:
        live.stop()
        live.remove()
        leaks.kept.discard(live.name)
