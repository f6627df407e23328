"""The guest closure runs where there is nothing else, and leaves nothing behind in its children."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from sandpit.provision import closure as closure_module
from sandpit.provision.closure import MOUNT_POINT, build_closure

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="chroot needs root")

START = [f"{MOUNT_POINT}/lib/ld.so", "--library-path", f"{MOUNT_POINT}/lib", f"{MOUNT_POINT}/bin/python3", "-I", "-S"]
CHECK = f"""
import sys; sys.path.insert(0, "{MOUNT_POINT}/packages")
import asyncio, ctypes, hashlib, lzma, bz2, sqlite3, ssl, zlib, encodings.idna, multiprocessing, uuid, email, pwd
import httptools, jupyter_client, multipart, starlette.applications, uvicorn, uvloop, zmq
from jupyter_client.provisioning import KernelProvisionerFactory
assert "local-provisioner" in KernelProvisionerFactory.instance().get_provisioner_entries()
assert sys.prefix == "{MOUNT_POINT}", sys.prefix
assert sys.getfilesystemencoding() == "utf-8" and "\\u00e9".encode(sys.getfilesystemencoding())
files = {{line.split()[-1] for line in open("/proc/self/maps") if "/" in line}}
assert all(name.startswith("{MOUNT_POINT}/") for name in files if not name.startswith("/dev")), files
assert uvloop.run(asyncio.sleep(0, "ran")) == "ran"
print("whole", len(files) > 10)
"""


@pytest.fixture(scope="session")
def closure(cache_dir: Path) -> Path:
    return build_closure(cache_dir / "closure", cache=cache_dir / "cache/uv")


def run_in_empty_root(closure: Path, root: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    for name in (MOUNT_POINT[1:], "proc", "dev", "tmp"):
        (root / name).mkdir(exist_ok=True)
    script = f'mount --bind "$2" "$1{MOUNT_POINT}" && mount -o remount,bind,ro "$1{MOUNT_POINT}"'
    script += (
        ' && mount -t proc proc "$1/proc" && root=$1 && shift 2 && exec env -i "$(command -v chroot)" "$root" "$@"'
    )
    command = ["unshare", "--mount", "sh", "-c", script, "sh", str(root), str(closure), *START, *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)


def test_everything_loads_in_an_empty_root(closure: Path, tmp_path: Path) -> None:
    done = run_in_empty_root(closure, tmp_path, "-", stdin=CHECK)
    assert (done.stdout, done.stderr, done.returncode) == ("whole True\n", "", 0)


def test_entry_point_starts_the_named_part(closure: Path, tmp_path: Path) -> None:
    done = run_in_empty_root(closure, tmp_path, f"{MOUNT_POINT}/run.py", "no_such_part")
    assert "No module named 'sandpit.guest.no_such_part'" in done.stderr


def test_children_inherit_nothing(closure: Path, tmp_path: Path) -> None:
    done = run_in_empty_root(closure, tmp_path, "-c", "import os; print(sorted(os.environ))")
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.strip()[1:-1].replace("'", "").split(", ")) <= {"", "LC_CTYPE"}


def test_is_compiled_and_never_recompiled(closure: Path) -> None:
    sources = [p for p in closure.rglob("*.py") if "lib2to3" not in p.parts]
    compiled = {p.parent.parent / f"{p.name.partition('.')[0]}.py": p for p in closure.rglob("*.pyc")}
    assert len(sources) > 500
    assert not [p for p in sources if p not in compiled]
    unchecked_hash = (1).to_bytes(4, "little")
    assert {p.read_bytes()[4:8] for p in compiled.values()} == {unchecked_hash}


def test_second_build_is_the_first(closure: Path, cache_dir: Path) -> None:
    before = closure.stat().st_ctime_ns
    assert build_closure(cache_dir / "closure", cache=cache_dir / "cache/uv") == closure
    assert closure.stat().st_ctime_ns == before


def test_failed_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(closure_module, "_copy_libraries", fail)
    monkeypatch.setattr(closure_module, "install_locked", lambda *_, **__: None)
    with pytest.raises(OSError, match="disk full"):
        build_closure(tmp_path / "closure", cache=tmp_path)
    assert [p.name for p in (tmp_path / "closure").iterdir()] == [".lock"]


def test_leftovers_of_a_killed_build_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".making.dead/lib").mkdir(parents=True)
    monkeypatch.setattr(closure_module, "_fill", lambda work, _: (work / "run.py").touch())
    built = build_closure(tmp_path, cache=tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([".lock", built.name])
