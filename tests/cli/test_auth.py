"""`sandpit auth`: a server of one's own, no account anywhere else."""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING

from tests.clients.terminal import Terminal

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.user import User
    from tests.live import Live


def logged_out(user: User) -> None:
    """Nothing in the environment says which server."""
    for name in ("E2B_API_KEY", "E2B_API_URL", "E2B_SANDBOX_URL"):
        del user.environment[name]


def test_login_info_logout(user: User, live: Live, team_key: str, tmp_path: Path) -> None:
    logged_out(user)
    status, text = user.refused("sandbox", "list")
    assert (status, "auth login" in text) == (1, True)
    assert user("auth", "logout") == "Not logged in, nothing to do.\n"

    given = ("--api-url", live.api_url + "/", "--api-key", team_key, "--sandbox-url", live.edge_url)
    assert "Logged in to" in user("auth", "login", *given)
    path = tmp_path / ".config/sandpit/config.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text()) == {
        "api_url": live.api_url, "sandbox_url": live.edge_url, "api_key": team_key,
    }  # fmt: skip
    name = user("sandbox", "create", "-d").strip()
    assert user("sandbox", "exec", name, "echo it works") == "it works\n"
    info = user.json("auth", "info")
    assert (info["apiUrl"], info["source"], info["loggedIn"]) == (live.api_url, str(path), True)
    assert info["team"].startswith("team ")
    assert team_key not in user("auth", "info") + json.dumps(info)

    assert user("auth", "logout") == "Logged out.\n"
    assert not path.exists()
    user.environment |= live.clients | {"E2B_API_KEY": team_key}
    assert user.json("auth", "info")["source"] == "the environment"


def test_login_asks(user: User, live: Live, team_key: str, tmp_path: Path) -> None:
    """Without options, in a terminal; the key is not shown."""
    environment = dict(user.environment)
    logged_out(user)
    with Terminal([*user.program, "auth", "login"], user.environment) as terminal:
        terminal.wait_for("address")
        terminal.type(live.api_url.removeprefix("http://") + "\n")
        terminal.wait_for("API key .*: ")  # the space is shown last: what is typed before it is dropped with the echo
        terminal.type(team_key + "\n")
        assert terminal.wait() == 0
        assert "Logged in to" in terminal.text
        assert team_key not in terminal.text
    assert user.json("auth", "info")["apiUrl"] == live.api_url
    user.environment |= environment


def test_login_refuses(user: User, live: Live, tmp_path: Path) -> None:
    """What does not work is not stored."""
    environment = dict(user.environment)
    logged_out(user)
    status, text = user.refused("auth", "login")
    assert (status, "--api-url" in text) == (2, True)
    assert user.refused("auth", "login", "--api-url", live.api_url)[0] == 2
    wrong = ("--api-key", "e2b_" + "0" * 40)
    assert user.refused("auth", "login", "--api-url", live.api_url, *wrong)[0] == 1
    assert "cannot be reached" in user.refused("auth", "login", "--api-url", "http://127.0.0.1:9", *wrong)[1]
    assert user.refused("auth", "login", "--api-url", live.edge_url, *wrong)[0] == 1
    assert not (tmp_path / ".config").exists()
    (tmp_path / ".config/sandpit").mkdir(parents=True)
    (tmp_path / ".config/sandpit/config.json").write_text("{")
    status, text = user.refused("sandbox", "list")
    assert (status, "config.json" in text, "auth login" in text) == (1, True, True)
    user("auth", "logout")
    user.environment |= environment
