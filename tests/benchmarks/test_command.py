"""`./bench` itself: that it measures, compares and writes down; not how fast anything is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from benchmarks.bare import Bare
from benchmarks.rig import rig
from tests.machines import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    environment = {"PYTHONPATH": str(REPOSITORY / "src")}
    return subprocess.run(
        command, cwd=REPOSITORY, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def measured(path: Path, *arguments: str) -> dict[str, dict[str, Any]]:
    """Rows by name, of a run that must succeed."""
    done = run("--json", str(path), *arguments)
    assert done.returncode == 0, done.stderr
    result = json.loads(path.read_text())
    assert result["machine"]["cpus"] >= 1
    rows = {row["name"]: row for row in result["measurements"]}
    assert all(name in done.stdout for name in rows)
    return rows


@pytest.mark.timeout(180)
def test_round_trips(built_images: None, tmp_path: Path) -> None:
    rows = measured(tmp_path / "out.json", "--quick", "--only", "roundtrip")
    assert list(rows) == ["command", "cell"]
    for row in rows.values():
        assert len(row["values"]) == len(row["reference_values"]) == 5
        assert min(row["values"]) > 0 < min(row["reference_values"])
        assert row["targets"][0]["met"] == (row["ratio"] <= 1.5)


@pytest.mark.timeout(180)
def test_soak_and_rounds(built_images: None, tmp_path: Path) -> None:
    rows = measured(tmp_path / "out.json", "soak", "4", "--json", str(tmp_path / "out.json"))
    for name in ("create", "first command", "kill"):
        assert len(rows[f"{name}, all 4"]["values"]) == 4
        assert len(rows[f"{name}, the last 1"]["reference_values"]) == 1
    assert rows["cycles that failed"]["values"] == [0]
    rows = measured(tmp_path / "out.json", "rounds", "2")
    assert len(rows["resume, round after round"]["values"]) == 2


def test_restores_by_hand(built_images: None) -> None:
    """The reference of most subjects: they need the templates' snapshots."""
    with rig(pool=0) as made:
        bare = Bare(made)
        assert bare.restore() > 0


def test_a_subject_that_does_not_exist() -> None:
    done = run("--only", "nothing")
    assert done.returncode == 2
    assert "roundtrip" in done.stderr


def test_a_program_that_does_not_exist() -> None:
    done = run("programs", "nothing")
    assert done.returncode == 2
    assert "postgresql" in done.stderr


@pytest.mark.parametrize(("command", "number"), [("soak", "0"), ("rounds", "-1"), ("model", "many")])
def test_a_number_that_is_none(command: str, number: str) -> None:
    done = run(command, number)
    assert done.returncode == 2
    assert "usage" in done.stderr
