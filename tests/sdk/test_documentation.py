"""Every Python example of the 2024 documentation, and those of the SDK's guide, work as they stand and print what they say."""

from __future__ import annotations

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from tests.cli.user import until
from tests.machines import REPOSITORY

from sandpit import CodeInterpreter, Sandbox
from sandpit.sdk._sync.running import Running, shell
from sandpit.sdk.errors import ProcessException

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.sdk.conftest import Team

EXAMPLES = REPOSITORY / "examples/docs_2024"
PAGES = (REPOSITORY / "docs/sdk.md", REPOSITORY / "README.md")
GROUPS = ("interpreter", "filesystem", "process", "")
SERVER = "echo starting; n=0; while :; do n=$((n + 1)); echo serving $n; echo warning >&2; sleep 0.2; done"

pytestmark = pytest.mark.usefixtures("tidy")


def group(name: str) -> str:
    return next(prefix for prefix in GROUPS if name.startswith(prefix))


@pytest.fixture(scope="module")
def templates(team: Team) -> Iterator[None]:
    """The templates that the documentation's readers have built: one with a start command that goes on printing."""
    made = []
    with CodeInterpreter() as sandbox:
        made.append(sandbox.snapshot("your-custom-sandbox-name"))
    with Sandbox() as sandbox:
        message = {"process": shell(SERVER), "tag": "start_cmd", "stdin": False}
        Running.start(sandbox.link, ProcessException, message, 60)
        made.append(sandbox.snapshot("my-agent-sandbox"))
    yield
    for sandbox_id in team.running():
        team.call("DELETE", f"/sandboxes/{sandbox_id}")
    for snapshot in made:
        Sandbox.delete_snapshot(snapshot.snapshot_id)


def problem(name: str, code: str, team: Team, folder: Path, **variables: str) -> str | None:
    """Run an example; what it did not do as it says, if anything."""
    environment = {**team.variables, **variables, "PYTHONPATH": str(REPOSITORY / "src"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    if done.returncode != 0 or done.stderr:
        return f"{name}: exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    lines = done.stdout.splitlines()
    expected = re.findall(r"(?:^|  +)# output: (.*)$", code, re.MULTILINE)
    if not expected:
        return f"{name}: says nothing of what it prints"
    for text in expected:
        line = next((line for line in lines if text in line), None)
        if line is None:
            return f"{name}: did not print {text!r}, but:\n{done.stdout}"
        lines.remove(line)
    return None


def run_all(examples: dict[str, str], team: Team, folder: Path) -> None:
    longest_first = sorted(examples.items(), key=lambda item: "sleep(" not in item[1])
    with ThreadPoolExecutor(4) as pool:
        problems = pool.map(lambda item: problem(item[0], item[1], team, folder), longest_first)
        assert [found for found in problems if found is not None] == []


@pytest.mark.timeout(240)
@pytest.mark.parametrize("prefix", GROUPS, ids=lambda prefix: prefix or "others")
def test_examples_of_2024(prefix: str, team: Team, templates: None, tmp_path: Path) -> None:
    examples = {path.stem: path.read_text() for path in EXAMPLES.glob("*.py") if group(path.stem) == prefix}
    examples.pop("bucket", None)  # needs one: test_buckets.py
    assert len(examples) >= 6
    run_all(examples, team, tmp_path)


def test_the_start_command_from_its_beginning(templates: None) -> None:
    lines: list[str] = []
    with Sandbox("my-agent-sandbox", on_stdout=lambda message: lines.append(message.line)) as sandbox:
        first = until(lambda: len(lines))
        until(lambda: len(lines) > first + 5)
        sandbox.kill()
    assert lines == ["starting", *(f"serving {number}" for number in range(1, len(lines)))]


@pytest.mark.timeout(120)
def test_the_guide(team: Team, tmp_path: Path) -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    blocks = [block for block in blocks if "from sandpit import" in block]
    assert len(blocks) >= 6
    run_all({f"block {number}": block for number, block in enumerate(blocks, 1)}, team, tmp_path)
