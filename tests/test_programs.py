"""Programs of the host are started in one place, with an environment of their own."""

from __future__ import annotations

import ast
import asyncio
import os
import sys
from pathlib import Path

import pytest

from sandpit.lib import programs

_SOURCES = Path(programs.__file__).parents[1]
_STARTERS = {
    "subprocess": {"run", "Popen", "call", "check_call", "check_output", "getoutput", "getstatusoutput"},
    "asyncio": {"create_subprocess_exec", "create_subprocess_shell"},
    "os": {
        "system", "popen", "execv", "execve", "execvp", "execvpe", "execl", "execle", "execlp", "spawnv", "spawnve",
        "spawnl", "spawnlp", "posix_spawn", "posix_spawnp",
    },
    "pty": {"spawn"},
}  # fmt: skip
_ELSEWHERE = {
    "lib/programs.py",
    "cli/server/measure.py",  # becomes ./bench
}
_APART = ("guest/", "sdk/")
"""What runs in sandboxes, and in users' programs."""
_PRINT = "import os; print(sorted(os.environ)); print(sorted(int(n) for n in os.listdir('/proc/self/fd')))"


def _starts(tree: ast.AST) -> list[int]:
    """Lines that start a program."""
    found = []
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
        ):
            if node.func.attr in _STARTERS.get(node.func.value.id, ()):
                found.append(node.lineno)
        elif isinstance(node, ast.ImportFrom) and node.module in _STARTERS:
            found += [node.lineno for alias in node.names if alias.name in _STARTERS[node.module]]
    return found


def test_programs_are_started_in_one_place() -> None:
    found = []
    for path in _SOURCES.rglob("*.py"):
        name = str(path.relative_to(_SOURCES))
        if name not in _ELSEWHERE and not name.startswith(_APART):
            found += [f"{name}:{line}" for line in _starts(ast.parse(path.read_text()))]
    assert found == []


def test_a_program_gets_no_environment_and_no_descriptor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SANDPIT_SECRET", "secret")
    descriptor = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(descriptor, True)

    async def start() -> str:
        process = await programs.start(sys.executable, "-I", "-c", _PRINT, stdout=asyncio.subprocess.PIPE)
        return (await process.communicate())[0].decode()

    spawned = tmp_path / "spawned"
    try:
        with spawned.open("wb") as file:
            programs.spawn(sys.executable, "-I", "-c", _PRINT, stdout=file).wait(20)
        outputs = [asyncio.run(start()), programs.call(sys.executable, "-I", "-c", _PRINT).stdout, spawned.read_text()]
    finally:
        os.close(descriptor)
    for output in outputs:
        names, descriptors = output.splitlines()
        assert names == "['LC_ALL', 'PATH']"
        assert descriptors == "[0, 1, 2, 3]", "3 is the directory that the program itself lists"


def test_what_fetches_packages_gets_the_settings_of_the_network_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "SSL_CERT_FILE", "PIP_INDEX_URL", "SANDPIT_DATABASE_URL", "E2B_API_KEY"):
        monkeypatch.setenv(name, "value")
    given = programs.network_environment(EXTRA="1")
    assert {"HTTPS_PROXY", "SSL_CERT_FILE", "PIP_INDEX_URL", "PATH", "EXTRA"} <= set(given)
    assert not {"SANDPIT_DATABASE_URL", "E2B_API_KEY"} & set(given)
