"""Every example of the pages for users works as it stands, with nothing but the three variables."""

from __future__ import annotations

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from tests.clients.node_packages import needs_node, node_environment, node_modules
from tests.machines import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

_PAGES = ("interpreter.md", "snapshots.md")


def blocks(language: str) -> list[str]:
    pages = [(REPOSITORY / "docs" / page).read_text() for page in _PAGES]
    found = [re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL) for page in pages]
    return [block for blocks in found for block in blocks]


def run(command: list[str], clients: dict[str, str], folder: Path) -> None:
    done = subprocess.run(
        command, env=node_environment(clients), cwd=folder, capture_output=True, text=True, check=False, timeout=50
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_python_blocks(clients: dict[str, str], tmp_path: Path) -> None:
    found = blocks("python")
    assert len(found) >= 8
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda code: run([sys.executable, "-c", code], clients, tmp_path), found))


@needs_node
def test_javascript_blocks(clients: dict[str, str], tmp_path: Path) -> None:
    found = blocks("js")
    assert found
    (tmp_path / "node_modules").symlink_to(node_modules())
    for code in found:
        (tmp_path / "example.mjs").write_text(code)
        run(["node", "example.mjs"], clients, tmp_path)
