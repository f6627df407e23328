"""Faults of the kernel that ordinary programs meet have their remedies, and none where there is no fault (guest.stage1.remedies)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sandpit.guest.stage1.remedies import LIBRARY, LOCKED_BYTES, PRELOAD

if TYPE_CHECKING:
    from tests.machines import Box

FORKS = r"""
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>
int main(void) {
  int crashed = 0, status;
  fcntl(0, F_GETFL);
  for (int i = 0; i < 20; i++) {
    pid_t child = fork();
    if (!child) _exit(opendir("/") ? 0 : 1);
    waitpid(child, &status, 0);
    crashed += WIFSIGNALED(status);
  }
  printf("%d", crashed);
}
"""
"""20 children, each of which opens a directory; prints how many died of a signal."""
CLOSES = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
most = 2**32 - 1
def close(first, last, flags=0):
    status = libc.close_range(ctypes.c_uint(first), ctypes.c_uint(last), flags)
    return status or 0 if status == 0 else -ctypes.get_errno()
os.dup2(0, 70)
os.dup2(0, 80)
print(close(75, most), os.path.exists("/proc/self/fd/70"), os.path.exists("/proc/self/fd/80"))
os.set_inheritable(70, True)
print(close(60, most, 4), os.get_inheritable(70))
print(close(most, most), close(80, 75), close(most, most - 1), close(50, 60, 1 << 20))
"""
CLOSED = "0 True False\n0 False\n0 -22 -22 -22"
"""As Linux answers: EINVAL for an end before the beginning, and for a flag that does not exist."""


def test_children_that_open_a_directory_live(box: Box) -> None:
    box.sh(f"cd /tmp && cat > forks.c <<'END'\n{FORKS}\nEND\ngcc -O1 forks.c -o forks")
    assert [box.sh("/tmp/forks", user) for user in ("root", "user")] == ["0", "0"]


def test_all_descriptors_from_one_on_are_closed(box: Box) -> None:
    assert box.python(CLOSES) == CLOSED
    assert box.python(CLOSES, "user") == CLOSED
    assert box.sh(f"env -i /usr/bin/python3 - <<'END'\n{CLOSES}\nEND") == CLOSED, "not by an environment variable"


def test_a_sound_kernel_gets_no_remedy(box: Box, runtime: str) -> None:
    limits = box.sh("cat /proc/self/limits; prlimit --memlock --raw --noheadings --output SOFT")
    preloaded = box.sh(f"cat {PRELOAD} 2>/dev/null || true")
    if runtime == "gvisor" and faulty(box):
        assert (limits.splitlines()[-1], preloaded) == (str(LOCKED_BYTES), LIBRARY)
    else:
        assert limits.splitlines()[-1] != str(LOCKED_BYTES)
        assert preloaded == ""


def faulty(box: Box) -> bool:
    """Whether the kernel itself refuses close_range() to the end: asked without the C library's function."""
    answer = box.sh("perl -e 'print syscall(436, 4294967295, 4294967295, 0), \" \", $! + 0'")
    assert re.fullmatch(r"0 \d+|-1 22", answer)
    return answer == "-1 22"
