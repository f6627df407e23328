"""The script's own decisions; what it calls is tested elsewhere."""

from __future__ import annotations

import ast
import json
import subprocess

from tests.cli.conftest import ROOT


def quickstart(*arguments: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [*prefix, "bash", str(ROOT / "quickstart"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)


def test_help() -> None:
    done = quickstart("--help")
    assert done.returncode == 0
    assert "--no-example" in done.stdout


def test_unknown_option() -> None:
    done = quickstart("--nonsense")
    assert done.returncode == 2
    assert "usage:" in done.stderr


def test_other_users_are_told_to_use_sudo() -> None:
    done = quickstart("--no-example", prefix=("unshare", "--user", "--map-user=65534"))
    assert done.returncode == 1
    assert "hint: sudo ./quickstart" in done.stderr
    assert "==>" not in done.stdout


def test_the_examples_kept_answer_is_python() -> None:
    answer = json.loads((ROOT / "examples/data_scientist_answer.json").read_text())
    code = next(block["input"]["code"] for block in answer["content"] if block["type"] == "tool_use")
    assert "median" in code
    ast.parse(code)
