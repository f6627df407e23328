"""The guest closure: the Python, packages and C library that the agent runs on, in any root file system.

A directory, mounted read-only at `/.sandpit` in every sandbox (docs/architecture.md, The guest):

    bin/python3        the server's own interpreter
    lib/ld.so          the loader it is started through
    lib/*.so*          every shared library that anything here needs
    lib/python3.X/     the standard library, compiled
    packages/          the locked `guest` dependencies, sandpit.guest and sandpit.protocol
    preload/           a library for programs of the sandbox (sandpit.provision.preload)
    run.py             the entry point
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import re
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from sandpit.lib import programs
from sandpit.lib.private import contents, private
from sandpit.provision import preload
from sandpit.provision.wheels import install_locked, requirements_dir
from sandpit.templates.layers.store import locked, sync_file_system

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MOUNT_POINT = "/.sandpit"

_RUN = """\
import importlib
import sys

sys.path.insert(0, __file__.rpartition("/")[0] + "/packages")
del sys.argv[0]
importlib.import_module(f"sandpit.guest.{sys.argv[0]}.__main__").main()
"""

_UNUSED_STDLIB = {
    "__phello__", "__pycache__", "dist-packages", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "site-packages",
    "sitecustomize.py", "test", "tests", "tkinter", "turtle.py", "turtledemo", "venv",
    "EXTERNALLY-MANAGED", "LICENSE.txt",
}  # fmt: skip
# Extension modules that only bring more libraries (Kerberos, terminals, databases), and what is for compilers.
_UNUSED_FILES = re.compile(
    r"^(config-\d.*|(_test|_tkinter|_ctypes_test|_curses|_dbm|_gdbm|nis|ossaudiodev|readline|xx).*\.so|.*\.(a|o|c|h|pyx|pxd|pyi|exe))$"
)
_UNUSED_PACKAGE_FOLDERS = {"bin", "tests", "test", "__pycache__"}
_PACKAGE = Path(__file__).resolve().parents[1]
_GUEST_PARTS = ("guest", "protocol")
"""Packages of ours that run in sandboxes."""


class ClosureError(Exception):
    """The closure could not be built. The message says why, and what to do."""


def build_closure(dest: Path, *, cache: Path) -> Path:
    """The closure's directory `dest/<key>`, made if it is not there yet; it never changes.

    `cache` keeps downloaded wheels. Atomic: it appears by a rename. Older closures stay:
    running sandboxes may use them.
    Raises: ClosureError, InstallError.
    """
    finished = dest.absolute() / closure_key()
    if finished.exists():
        return finished
    private(dest)
    with locked(dest / ".lock"):
        for stale in dest.glob(".making.*"):  # of a build that was killed: the lock is ours
            shutil.rmtree(
                stale, ignore_errors=True
            )  # its installer may be at work still; the next build sweeps the rest
        if finished.exists():
            return finished
        work = Path(tempfile.mkdtemp(prefix=".making.", dir=dest))
        try:
            with contents():
                _fill(work, cache)
            work.chmod(0o755)
            sync_file_system(work)
            work.rename(finished)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return finished


def closure_key() -> str:
    """32 hex digits over all that goes in: this Python and its libraries, the lock, the guest's source, this file."""
    digest = hashlib.sha256(f"{sys.version} {platform.machine()}".encode())
    inputs = [
        Path(__file__),
        Path(preload.__file__),
        _interpreter(),
        *_libraries([_interpreter()]).values(),
        requirements_dir() / "guest.lock",
        *_guest_sources(),
    ]
    for path in inputs:
        digest.update(f"{path.name} {path.stat().st_size} ".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:32]


def _fill(work: Path, cache: Path) -> None:
    for folder in ("bin", "lib", "packages"):
        (work / folder).mkdir()
    shutil.copyfile(_interpreter(), work / "bin/python3")
    (work / "bin/python3").chmod(0o755)
    _copy_stdlib(work / sys.platlibdir / f"python{sys.version_info.major}.{sys.version_info.minor}")
    packages = work / "packages"
    install_locked(requirements_dir() / "guest.lock", packages, cache=cache)
    _trim_packages(packages)
    _copy_guest(packages / "sandpit")
    (work / "run.py").write_text(_RUN)
    if platform.machine() == preload.MACHINE:
        (work / "preload").mkdir()
        (work / "preload/close_range.so").write_bytes(preload.close_range_library())
    _copy_libraries(work)
    # unchecked: a file system that is read-only, or that shows other times, never makes Python compile again
    command = [sys.executable, "-I", "-m", "compileall", "-q", "-j2", "-r30", "--invalidation-mode", "unchecked-hash"]
    done = programs.call(*command, "-s", str(work), "-p", MOUNT_POINT, str(work))
    if done.returncode != 0:
        raise ClosureError(f"compiling the closure's Python files failed:\n{done.stdout.strip()}")


def _interpreter() -> Path:
    return Path(getattr(sys, "_base_executable", sys.executable)).resolve()


def _guest_sources() -> list[Path]:
    """Paths below our own package."""
    found = (path for part in _GUEST_PARTS for path in (_PACKAGE / part).rglob("*"))
    return sorted(path for path in found if path.is_file() and "__pycache__" not in path.parts)


def _copy_guest(target: Path) -> None:
    target.mkdir()
    (target / "__init__.py").write_text('"""The part of Sandpit that runs inside sandboxes."""\n')
    for source in _guest_sources():
        copy = target / source.relative_to(_PACKAGE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)


def _copy_stdlib(target: Path) -> None:
    def unused(folder: str, names: list[str]) -> set[str]:
        return {name for name in names if name in _UNUSED_STDLIB or _UNUSED_FILES.match(name)}

    for scheme in ("stdlib", "platstdlib"):
        source = Path(sysconfig.get_path(scheme, vars={"base": sys.base_prefix, "platbase": sys.base_exec_prefix}))
        shutil.copytree(source, target, ignore=unused, dirs_exist_ok=True, copy_function=shutil.copyfile)
    compiled = importlib.util.find_spec("_ctypes")  # an extension module in every build of Python
    dynload = Path((compiled.origin if compiled else "") or "").parent
    if dynload.name == "lib-dynload":
        shutil.copytree(
            dynload, target / "lib-dynload", ignore=unused, dirs_exist_ok=True, copy_function=shutil.copyfile
        )
    (target / "lib-dynload").mkdir(exist_ok=True)  # its absence makes Python warn at every start


def _trim_packages(packages: Path) -> None:
    for folder, folders, names in os.walk(packages):
        for name in [name for name in folders if name in _UNUSED_PACKAGE_FOLDERS]:
            shutil.rmtree(Path(folder) / name)
            folders.remove(name)
        for name in names:
            if _UNUSED_FILES.match(name):
                (Path(folder) / name).unlink()


def _copy_libraries(work: Path) -> None:
    """Every library that the closure needs and does not have yet, by the name it is asked for; libc included."""
    libraries = _libraries([_interpreter(), *_elf_files(work)])
    for name, path in libraries.items():
        if path.is_relative_to(work):
            continue  # bundled with its wheel, found there by relative path
        copy = work / "lib" / ("ld.so" if _is_loader(name) else name)
        shutil.copyfile(path, copy)
        copy.chmod(0o755)
    if not (work / "lib/ld.so").exists():
        raise ClosureError(f"{_interpreter()} is not dynamically linked with glibc; run Sandpit with another Python")


def _libraries(files: Iterable[Path]) -> dict[str, Path]:
    """What the loader would load for these files: name as asked for -> file. Raises: ClosureError."""
    found: dict[str, Path] = {}
    done = programs.call("ldd", *map(str, files), env=programs.environment(LC_ALL="C"))
    for line in done.stdout.splitlines():
        if match := re.match(r"\s+(\S+) => (/\S+) \(0x", line):
            found.setdefault(match[1], Path(match[2]))
        elif match := re.match(r"\s+(/\S+) \(0x", line):
            found.setdefault(Path(match[1]).name, Path(match[1]).resolve())
        elif "=> not found" in line:
            raise ClosureError(f"the library {line.split()[0]} that the guest needs is not installed on this machine")
    return found


def _elf_files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*.so*")):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                if file.read(4) == b"\x7fELF":
                    yield path


def _is_loader(name: str) -> bool:
    return Path(name).name.startswith(("ld-linux", "ld-musl", "ld64"))
