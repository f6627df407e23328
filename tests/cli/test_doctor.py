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

from sandpit.cli.checks import Check, Result, perform
from sandpit.settings import Settings

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
