"""Help must be there at once: what counts is what is imported for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from tests.cli.conftest import ROOT, Cli

HEAVY = (
    "alembic",
    "httpx",
    "mcp",
    "pydantic",
    "pydantic_settings",
    "rich",
    "sqlalchemy",
    "starlette",
    "uvicorn",
    "uvloop",
)
COMMANDS = (
    [],
    ["server"],
    ["prepare"],
    ["up"],
    ["down"],
    ["status"],
    ["env"],
    ["doctor"],
    ["openapi"],
    ["version"],
    ["keys"],
    ["keys", "create"],
    ["keys", "list"],
    ["keys", "revoke"],
    ["teams"],
    ["teams", "create"],
    ["teams", "list"],
    ["auth"],
    *(["auth", name] for name in ("login", "logout", "info")),
    ["sandbox"],
    *(
        ["sandbox", name]
        for name in (
            "list",
            "info",
            "create",
            "spawn",
            "connect",
            "exec",
            "kill",
            "pause",
            "resume",
            "fork",
            "logs",
            "metrics",
            "lg",
        )
    ),
    ["template", "build"],
)
PROBE = """
import json, sys
from sandpit.cli.main import main
sys.argv = ["sandpit", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    status = end.code
print(json.dumps({"status": status, "modules": sorted(sys.modules)}))
"""


def modules_of(*arguments: str) -> tuple[int, set[str], str]:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    text, _, last = done.stdout.strip().rpartition("\n")
    answer = json.loads(last)
    return answer["status"], set(answer["modules"]), text


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_imports_nothing_heavy(command: list[str]) -> None:
    status, modules, text = modules_of(*command, "--help")
    assert status == 0
    assert "Usage:" in text
    assert not modules & set(HEAVY)
    assert {name for name in modules if name.startswith("sandpit.")} <= {
        "sandpit.cli",
        "sandpit.cli.main",
        "sandpit.cli.templates",
        "sandpit.cli.templates.template",
        "sandpit.cli.errors",
        "sandpit.cli.sandboxes",
        "sandpit.cli.sandboxes.actions",
    }


def test_version_as_an_option() -> None:
    assert modules_of("--version")[2] == modules_of("version")[2]


def test_version_imports_nothing_heavy() -> None:
    status, modules, text = modules_of("version")
    assert status == 0
    assert text.startswith("sandpit ")
    assert not modules & set(HEAVY)


def test_every_command_is_in_the_help(cli: Cli) -> None:
    text = cli("--help").stdout
    for command in {part[0] for part in COMMANDS if part}:
        assert f"\n  {command} " in text


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["up", "--nonsense"], ["keys", "create"], ["up", "--timeout", "x"]]
)
def test_misuse_is_status_2_without_a_traceback(cli: Cli, arguments: list[str]) -> None:
    done = cli(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_without_its_packages_it_says_what_to_install() -> None:
    """As after `pip install .`: Python sees Sandpit, and no other package."""
    done = subprocess.run(
        [sys.executable, "-S", "-P", "-m", "sandpit.cli", "sandbox", "list"],
        env={"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    first, hint = done.stderr.splitlines()
    assert first == "error: this command needs the package 'typer', which is not installed"
    assert hint.startswith(f" hint: {sys.executable} -m pip install 'sandpit[cli]'")
