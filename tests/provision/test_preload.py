"""The library that is written byte by byte loads, and does what the kernel does, but for the numbers that old kernels refuse."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from sandpit.provision.preload import MACHINE, close_range_library

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(platform.machine() != MACHINE, reason="it is for x86-64")

PROGRAM = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
most = 2**32 - 1
def close(first, last, flags=0):
    status = libc.close_range(ctypes.c_uint(first), ctypes.c_uint(last), flags)
    return 0 if status == 0 else ctypes.get_errno()
os.dup2(0, 80)
answers = [close(*given) for given in ((most, most), (80, 75), (most, most - 1), (2**31, 2**31 - 1), (50, 60, 1 << 20))]
open_before = os.path.exists("/proc/self/fd/80")
print(answers, open_before, close(75, most), os.path.exists("/proc/self/fd/80"))
"""


@pytest.fixture
def library(tmp_path: Path) -> Path:
    path = tmp_path / "close_range.so"
    path.write_bytes(close_range_library())
    return path


def run(*command: str, **environment: str) -> str:
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_it_answers_as_the_kernel_does(library: Path) -> None:
    kernels = run(sys.executable, "-c", PROGRAM)
    assert run(sys.executable, "-c", PROGRAM, LD_PRELOAD=str(library)) == kernels


def test_it_is_what_programs_call(library: Path) -> None:
    bound = run("/bin/true", LD_PRELOAD=str(library), LD_BIND_NOW="1", LD_DEBUG="bindings")
    assert f"binding file {library} [0] to" in bound, "it found the C library's `syscall`"
    address = "import ctypes; print(ctypes.cast(ctypes.CDLL(None).close_range, ctypes.c_void_p).value)"
    maps = f"{address}; print(open('/proc/self/maps').read())"
    where, *lines = run(sys.executable, "-c", maps, LD_PRELOAD=str(library)).splitlines()
    spans = [line.split() for line in lines if line.endswith(str(library))]
    assert any(int(start, 16) <= int(where) < int(end, 16) for start, end in (span[0].split("-") for span in spans))


def test_nothing_is_writable_and_executable(library: Path) -> None:
    maps = run("/bin/cat", "/proc/self/maps", LD_PRELOAD=str(library)).splitlines()
    assert {line.split()[1] for line in maps if line.endswith(str(library))} == {"r-xp", "rw-p"}
    assert not [line for line in maps if "x" in line.split()[1] and "[stack]" in line]
