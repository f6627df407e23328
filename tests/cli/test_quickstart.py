"""The script's own decisions; what it calls is tested elsewhere."""

from __future__ import annotations

import ast
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
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


PACKAGE = "idna"


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    """A lock with one small package."""
    text = (ROOT / "requirements/server.lock").read_text()
    found = re.search(rf"^{PACKAGE}==.*?(?=^[a-z#]|\\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    path = tmp_path / "one.lock"
    path.write_text(found[0])
    return path


def installing(venv: Path, lock: Path) -> subprocess.Popen[str]:
    """What quickstart does for each of its virtual environments."""
    script = 'set -euo pipefail; source scripts/environment.sh; provide_python; install_locked "$1" "$2"'
    return subprocess.Popen(
        ["bash", "-c", script, "bash", str(venv), str(lock)], cwd=ROOT, env={**os.environ, "PYTHON": sys.executable},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def works(venv: Path) -> bool:
    return subprocess.run([venv / "bin/python", "-c", f"import {PACKAGE}"], check=False).returncode == 0


@pytest.mark.skipif(not (ROOT / ".venv/bin/uv").exists(), reason="./test has not set up .venv")
def test_an_installation_that_was_broken_off_is_made_anew(tmp_path: Path, lock: Path) -> None:
    """Killed at any moment; and, as it looks then: a package that is known as installed and not there."""
    venv = tmp_path / "venv"
    broken = installing(venv, lock)
    time.sleep(random.SystemRandom().uniform(0.05, 3))
    os.killpg(broken.pid, signal.SIGKILL)
    broken.communicate()
    (venv / ".locked").unlink(missing_ok=True)
    packages = venv / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    for path in (*packages.glob("pip*"), *packages.glob(f"{PACKAGE}*")):
        subprocess.run(["rm", "-rf", path], check=True)
    [version] = re.findall(rf"{PACKAGE}==([0-9.]+)", lock.read_text())
    (known := packages / f"{PACKAGE}-{version}.dist-info").mkdir(parents=True)
    (known / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: {version}\n")
    output, _ = (done := installing(venv, lock)).communicate(timeout=50)
    assert done.returncode == 0, output
    assert works(venv)
