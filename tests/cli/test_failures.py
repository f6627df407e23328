"""Expected failures: a message, what to do, an exit status, no traceback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.conftest import Cli


@pytest.mark.parametrize("command", [["status"], ["env"], ["keys", "list"], ["keys", "revoke", "x"]], ids=" ".join)
def test_without_a_server(cli: Cli, command: list[str]) -> None:
    done = cli(*command)
    assert done.returncode == 3
    assert done.stdout == ""
    assert f"no server is running with {cli.data_dir}" in done.stderr
    assert "hint: start it with `sandpit up`" in done.stderr


def test_status_as_json_without_a_server(cli: Cli) -> None:
    done = cli("status", "--json")
    assert done.returncode == 3
    assert json.loads(done.stdout) == {"running": False, "ready": False}


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("SANDPIT_API_PORT", "65536", "api_port"),
        ("SANDPIT_NODE_NAME", "Too-Long-Name", "node_name"),
        ("SANDPIT_POOL", "{", "pool"),
        ("SANDPIT_CONFIG", "/does/not/exist.toml", "/does/not/exist.toml"),
        ("SANDPIT_SANDBOX_NETWORK", "10.0.0.1/8", "sandbox_network"),
    ],
)
@pytest.mark.parametrize("command", ["status", "up", "down", "env", "doctor", "server"])
def test_wrong_settings_are_named(cli: Cli, command: str, name: str, value: str, told: str) -> None:
    done = cli(command, **{name: value})
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_damaged_settings_file(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "sandpit.toml"
    file.write_text("[limits\n")
    done = cli("status", SANDPIT_CONFIG=str(file))
    assert done.returncode == 2
    assert "settings cannot be read" in done.stderr


def test_an_unknown_log_level(cli: Cli) -> None:
    done = cli("server", "--log-level", "loud")
    assert done.returncode == 2
    assert "debug, info, warning, error" in done.stderr


def test_state_of_another_process_is_not_a_server(cli: Cli) -> None:
    """A pid that was used again, here this process's parent: it has not the lock file, so it is left alone."""
    cli.run_dir.mkdir()
    (cli.run_dir / "server.json").write_text(json.dumps({"pid": 1, "version": "0", "addresses": {}}))
    assert cli("status").returncode == 3
    done = cli("down")
    assert done.returncode == 0
    assert "not running" in done.stdout


@pytest.mark.parametrize("content", ["", "{", "[]", '"x"', "{}", '{"pid": "x"}', '{"pid": -1}', '{"pid": 99999999999}'])
def test_a_damaged_state_file(cli: Cli, content: str) -> None:
    cli.run_dir.mkdir()
    (cli.run_dir / "server.json").write_text(content)
    done = cli("status")
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
