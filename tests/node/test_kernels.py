"""docs/kernels.md says what the kernels of sandboxes can do, and what tools show: tried in both."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.machines import REPOSITORY, cache_dir

from sandpit.node.runtime.holes import release_date
from sandpit.provision.hosttools import runsc_version
from sandpit.server.assemble import find_runsc

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.machines import Box

PROBE = (Path(__file__).parent / "kernel_probe.py").read_text()
TABLE = "## What the kernels can do"
DESCRIBED = 20240729
"""The gVisor release that the page describes."""
COLUMNS = {"gvisor": 1, "crun": 2}


def documented(runtime: str) -> dict[str, str]:
    """The rows of the page's table: what is tried, and what comes of it."""
    page = (REPOSITORY / "docs/kernels.md").read_text()
    lines = [line for line in page.partition(TABLE)[2].partition("\n## ")[0].splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]
    return {row[0]: row[COLUMNS[runtime]].strip("`") for row in rows}


def found(box: Box) -> dict[str, str]:
    """The same rows, as the kernel answers."""
    lines = box.python(PROBE).splitlines()
    return dict(line.rsplit(": ", 1) for line in lines if ": " in line)


def test_the_table_says_what_the_kernels_do(box: Box, runtime: str) -> None:
    rows, answers = documented(runtime), found(box)
    assert list(rows) == list(answers)
    binary = find_runsc(cache_dir())
    assert binary is not None
    if runtime == "gvisor" and release_date(runsc_version(binary) or "") != DESCRIBED:
        rows = {name: result for name, result in rows.items() if result == "works"}  # a newer release does no less
    elif runtime == "crun":
        rows["Landlock"] = of_this_machine("Landlock")  # not every kernel is built with it
    assert {name: answers[name] for name in rows} == rows


def of_this_machine(name: str) -> str:
    """What comes of a trial outside of sandboxes."""
    done = subprocess.run([sys.executable, "-", name], input=PROBE, capture_output=True, text=True, check=True)
    return done.stdout.strip().rpartition(": ")[2]


def test_tools_show_the_sandbox(create: Callable[..., Box], runtime: str) -> None:
    box = create(memory_mb=384, disk_mb=300)
    size, used = box.sh("df --output=size,used -m / | tail -1").split()
    assert 250 <= int(size) <= 300
    assert int(used) < 50
    box.sh("dd if=/dev/zero of=/file bs=1M count=100 status=none")
    assert 100 <= int(box.sh("df --output=used -m / | tail -1")) < 150, "what is written counts"
    names = box.sh("ps -eo comm --no-headers").splitlines()
    assert names[0] in {"ld.so", "python3"}, "its own processes, and no others"
    assert len(names) < 10
    assert re.search(r"^Tasks: +\d total", box.sh("top -bn1"), re.MULTILINE)
    assert int(box.sh("nproc")) == int(re.findall(r"^CPU\(s\): +(\d+)$", box.sh("lscpu"), re.MULTILINE)[0])
    server = "python3 -c 'import socket, time; s = socket.create_server((\"127.0.0.1\", 5123)); time.sleep(20)'"
    listening = box.sh(f"{server} & until ss -tln 2>/dev/null | grep 5123; do sleep 0.1; done; kill $!")
    assert "127.0.0.1:5123" in listening
    if runtime == "gvisor":
        assert int(box.sh("free -m | awk '/^Mem/ { print $2 }'")) == 384 + 128
        assert float(box.sh("cut -d' ' -f1 /proc/uptime")) < 60
        assert " up " in box.sh("uptime")
