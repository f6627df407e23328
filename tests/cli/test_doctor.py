"""The doctor finds what is wrong, and says how to mend it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.conftest import Cli

from sandpit.cli.doctor.checks import Check, Result, perform
from sandpit.node.runtime import holes
from sandpit.server.settings import Settings

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="most checks need root")


def checks_of(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, str]]:
    return {row["check"]: row for row in json.loads(done.stdout)["checks"]}


@needs_root
def test_it_tries_the_real_thing(cli: Cli) -> None:
    done = cli("doctor", "--json")
    checks = checks_of(done)
    for name in ("overlayfs", "network namespaces", "nftables netdev hooks", "address translation", "control groups"):
        assert checks[name]["state"] == "ok", checks[name]
    assert (done.returncode == 0) == json.loads(done.stdout)["ok"]
    assert checks["templates"]["state"] == "warning"
    assert checks["templates"]["fix"] == "sandpit prepare"
    assert [path.name for path in cli.data_dir.iterdir() if "doctor" in path.name] == []


@needs_root
def test_a_taken_port_fails(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", int(cli.environment["SANDPIT_EDGE_PORT"]))):
        done = cli("doctor", "--json")
        text = cli("doctor")
    assert done.returncode == 1
    row = checks_of(done)["ports"]
    assert row["state"] == "failed"
    assert "SANDPIT_EDGE_PORT" in row["fix"]
    assert text.returncode == 1
    assert "Not ready:" in text.stdout
    assert "ports" in text.stdout.rpartition("Not ready:")[2]


@needs_root
def test_a_data_directory_that_cannot_hold_sandboxes_fails(cli: Cli) -> None:
    done = cli("doctor", "--json", SANDPIT_DATA_DIR="/proc/sandpit")
    row = checks_of(done)["overlayfs"]
    assert done.returncode == 1
    assert row["state"] == "failed"
    assert "SANDPIT_DATA_DIR" in row["fix"]


@needs_root
def test_names_below_localhost_that_do_not_resolve(cli: Cli, tmp_path: Path) -> None:
    """Where the C library is not told of them: in a mount namespace with another /etc/nsswitch.conf."""
    switch = tmp_path / "nsswitch.conf"
    switch.write_text("hosts: files\n")
    script = 'mount --bind "$1" /etc/nsswitch.conf && shift && exec "$@"'
    command = [sys.executable, "-P", "-m", "sandpit.cli", "doctor", "--json"]
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", str(switch), *command],
        env=cli.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=55,
    )
    row = checks_of(done)["localhost names"]
    assert row["state"] == "warning"
    assert "libnss-myhostname" in row["fix"]


@needs_root
def test_a_runsc_that_does_not_run_fails(cli: Cli) -> None:
    (cli.data_dir / "bin").mkdir()
    (cli.data_dir / "bin/runsc").write_text("not a program")
    (cli.data_dir / "bin/runsc").chmod(0o755)
    row = checks_of(cli("doctor", "--json"))["gVisor"]
    assert row["state"] == "failed"
    assert "sandpit prepare" in row["fix"]


def test_without_root_checks_are_skipped_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    check = Check("check", lambda _: Result("ok", "fine"), root=True)
    assert perform(check, Settings()).state == "skipped"


def raises(error: Exception) -> Check:
    def run(_: Settings) -> Result:
        raise error

    return Check("check", run, "do this")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (FileNotFoundError(2, "No such file", "nft"), "nft is missing"),
        (subprocess.CalledProcessError(1, ["nft"], stderr="Error: no hook\nmore"), "Error: no hook"),
        (subprocess.CalledProcessError(1, ["nft"]), "nft exited with 1"),
        (subprocess.TimeoutExpired(["nft"], 15.0), "nft did not end within 15 s"),
    ],
)
def test_what_cannot_be_found_out_counts_as_failed(error: Exception, told: str) -> None:
    result = perform(raises(error), Settings())
    assert (result.state, result.detail, result.fix) == ("failed", told, "do this")


def test_what_is_not_required_is_a_warning() -> None:
    check = Check("check", lambda _: Result("failed", "gone", "mend"), required=False)
    assert perform(check, Settings()) == Result("warning", "gone", "mend")


@pytest.mark.parametrize(
    ("version", "names"),
    [
        ("runsc version release-20240729.0", {"CVE-2025-2713", "CVE-2026-96812"}),
        ("runsc version 0.0~20240729.0", {"CVE-2025-2713", "CVE-2026-96812"}),
        ("runsc version release-20250811.0", {"CVE-2026-96812"}),
        ("runsc version release-20260831.0", {"CVE-2026-96812"}),
        ("runsc version release-20260901.0", set()),
        ("runsc version release-20261102.0-5-gabcdef", set()),
    ],
)
def test_known_holes_of_a_release_are_named(version: str, names: set[str]) -> None:
    found = holes.known_holes(version)
    assert found is not None
    assert {hole.name for hole in found} == names
    words = holes.describe(version)
    assert (words is None) == (not names)
    assert all(name in (words or "") for name in names)


@pytest.mark.parametrize(
    "version", ["", "runsc version VERSION_MISSING", "runsc version 20249999", "runsc version release-20241399.0"]
)
def test_a_release_without_a_date_is_said_to_be_unknown(version: str) -> None:
    assert holes.known_holes(version) is None
    assert "unknown" in (holes.describe(version) or "")


def test_versions_of_crun_are_compared_as_numbers() -> None:
    assert holes.crun_number("crun version 1.8.1") == 10801
    assert (holes.crun_number("crun version 1.20") or 0) > (holes.crun_number("crun version 1.9.2") or 0)
    assert holes.crun_number("crun") is None


@needs_root
@pytest.mark.parametrize(
    ("says", "state", "told"),
    [
        ("release-20240729.0", "warning", "CVE-2026-96812"), ("release-20261102.0", "ok", "none known"),
        ("of my own", "warning", "unknown"),
    ],
)  # fmt: skip
def test_the_release_that_is_found_is_looked_up(cli: Cli, says: str, state: str, told: str) -> None:
    (cli.data_dir / "bin").mkdir(exist_ok=True)
    (cli.data_dir / "bin/runsc").write_text(f"#!/bin/sh\necho runsc version {says}\n")
    (cli.data_dir / "bin/runsc").chmod(0o755)
    row = checks_of(cli("doctor", "--json"))["gVisor's holes"]
    assert (row["state"], told in row["detail"]) == (state, True), row
    assert state == "ok" or "gvisor.dev" in row["fix"]


@needs_root
def test_a_run_directory_that_crun_cannot_reach(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o700)
    row = checks_of(cli("doctor", "--json", SANDPIT_RUN_DIR=str(tmp_path / "closed/run")))["run directory"]
    assert (row["state"], "chmod o+x" in row["fix"]) == ("warning", True)
