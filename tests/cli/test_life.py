"""Start, look at and stop a real server. Without templates: what sandboxes do is tested elsewhere."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.cli.conftest import Cli

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="the server needs root"),
    pytest.mark.skipif(shutil.which("crun") is None, reason="the server needs a runtime"),
    pytest.mark.timeout(180),
]


@pytest.fixture
def server(cli: Cli) -> Iterator[Cli]:
    done = cli("up")
    assert done.returncode == 0, done.stderr
    yield cli
    stop(cli)


def stop(cli: Cli) -> None:
    done = cli("down", "--sandboxes")
    assert done.returncode == 0, done.stderr


def pid_of(cli: Cli) -> int:
    return int(json.loads((cli.run_dir / "server.json").read_text())["pid"])


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_up_status_env_keys_down(server: Cli) -> None:
    pid = pid_of(server)
    again = server("up")
    assert again.returncode == 0
    assert f"running already (pid {pid})" in again.stdout

    status = server("status")
    assert status.returncode == 0
    assert f"pid {pid}" in status.stdout
    about = json.loads(server("status", "--json").stdout)
    assert about["running"] is True
    assert about["ready"] is True
    assert about["pid"] == pid
    assert about["addresses"]["api"] == f"http://127.0.0.1:{server.environment['SANDPIT_API_PORT']}"
    assert "crun" in about["runtimes"]

    created = server("keys", "create", "a key; for $tests")
    assert created.returncode == 0
    assert created.stdout.startswith("e2b_")
    rows = json.loads(server("keys", "list", "--json").stdout)
    made = next(row for row in rows if row["name"] == "a key; for $tests")
    assert "a key; for $tests" in server("keys", "list").stdout
    assert server("keys", "revoke", made["id"]).returncode == 0
    assert made["id"] not in server("keys", "list").stdout
    assert server("keys", "revoke", made["id"]).returncode == 1
    assert server("keys", "revoke", "../teams").returncode == 1

    team = json.loads(server("teams", "create", "Others", "--json").stdout)
    assert team["key"].startswith("e2b_")
    assert [row["slug"] for row in json.loads(server("teams", "list", "--json").stdout)] == ["default", "others"]
    assert "Others" in server("teams", "list").stdout
    again = server("teams", "create", "Others")
    assert again.returncode == 1
    assert "slug 'others' already" in again.stderr

    down = server("down")
    assert down.returncode == 0
    assert not alive(pid)
    assert "not running" in server("down").stdout


def test_env_fits_a_shell(server: Cli) -> None:
    """Evaluated by a shell, it sets what clients of every age need and takes away what would lead them elsewhere."""
    before = {"E2B_DEBUG": "true", "E2B_SECURE": "false", "E2B_DOMAIN": "elsewhere.example"}
    done = server("env", **before)
    assert done.returncode == 0
    shown = subprocess.run(
        ["sh", "-c", f"eval {shlex.quote(done.stdout)}; env"],
        env={"PATH": os.environ["PATH"], **before},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    values = dict(
        line.split("=", 1) for line in shown.splitlines() if line.startswith(("E2B_", "SSL_", "REQ", "NODE_"))
    )
    bundle = str(server.data_dir / "tls/e2b.localhost/bundle.pem")
    assert values == {
        "E2B_API_KEY": (server.data_dir / "api-key").read_text().strip(),
        "E2B_API_URL": f"http://127.0.0.1:{server.environment['SANDPIT_API_PORT']}",
        "E2B_SANDBOX_URL": f"http://127.0.0.1:{server.environment['SANDPIT_EDGE_PORT']}",
        "E2B_DOMAIN": f"e2b.localhost:{server.environment['SANDPIT_TLS_PORT']}",
        **dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"), bundle),
    }
    assert json.loads(server("env", "--json").stdout) == values
    assert json.loads(server("env", "--legacy", "--json").stdout) == values
    assert "unset" not in server("env").stdout
    url = f"https://localhost:{server.environment['SANDPIT_TLS_PORT']}/health"
    context = ssl.create_default_context(cafile=bundle)
    answer = httpx.get(url, headers={"Host": "api.e2b.localhost"}, verify=context)
    assert answer.status_code == 200


def test_env_without_the_key_file(server: Cli) -> None:
    (server.data_dir / "api-key").unlink()
    done = server("env")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "api-key is gone" in done.stderr


def test_private_files(server: Cli) -> None:
    for path in (server.data_dir / "api-key", server.data_dir / "server.log", server.run_dir / "control.sock"):
        assert path.stat().st_mode & 0o077 == 0, path
    assert "INFO sandpit.server.app: ready: API http://" in (server.data_dir / "server.log").read_text()


def test_the_server_is_a_daemon_of_its_own(server: Cli) -> None:
    pid = pid_of(server)
    assert os.getsid(pid) == pid
    assert Path(f"/proc/{pid}/cwd").readlink() == Path("/")
    assert Path(f"/proc/{pid}/fd/0").readlink() == Path("/dev/null")


def test_up_after_a_crash(server: Cli) -> None:
    """State and socket of a killed server are there still; the next one takes their place."""
    first = pid_of(server)
    os.kill(first, signal.SIGKILL)
    while alive(first):
        time.sleep(0.01)
    assert server("status").returncode == 3
    done = server("up")
    assert done.returncode == 0, done.stderr
    assert pid_of(server) != first


def test_down_when_the_control_socket_is_gone(server: Cli) -> None:
    pid = pid_of(server)
    (server.run_dir / "control.sock").unlink()
    assert server("status").returncode == 4
    refused = server("down", "--sandboxes")
    assert refused.returncode == 1
    assert "call `sandpit down --sandboxes` again" in refused.stderr
    assert alive(pid)
    assert server("down").returncode == 0
    assert not alive(pid)


def test_refresh_restarts_a_server_that_is_older_than_its_templates(server: Cli) -> None:
    first = pid_of(server)
    assert server("up", "--refresh").returncode == 0
    assert pid_of(server) == first
    (server.data_dir / "images").mkdir(exist_ok=True)
    os.utime(server.data_dir / "images", (time.time() + 60,) * 2)
    assert "--refresh" in server("up").stdout
    assert pid_of(server) == first
    assert server("up", "--refresh").returncode == 0
    assert pid_of(server) != first
    os.utime(server.data_dir / "images")


def test_failed_up_shows_the_log_and_leaves_nothing(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", int(cli.environment["SANDPIT_API_PORT"]))):
        done = cli("up")
        assert done.returncode == 1
        assert "  | " in done.stderr
        assert "in use" in done.stderr
        assert "Traceback" not in done.stderr
    assert cli("status").returncode == 3


def test_relative_directories(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cli.environment |= {"SANDPIT_DATA_DIR": "data", "SANDPIT_RUN_DIR": "run"}
    try:
        done = cli("up")
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "run/server.json").exists()
    finally:
        stop(cli)


def test_servers_side_by_side(server: Cli, tmp_path: Path) -> None:
    other = Cli(
        server.environment | {"SANDPIT_DATA_DIR": str(tmp_path / "other"), "SANDPIT_RUN_DIR": str(tmp_path / "or")}
    )
    assert server("status").returncode == 0
    assert other("status").returncode == 3
    assert "not running" in other("down").stdout
    assert server("status").returncode == 0
