"""`sandpit template ...` against a real server."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from sandpit.cli.templates.config import TemplateConfig, load

if TYPE_CHECKING:
    from pathlib import Path

    from tests.live import Live

pytestmark = pytest.mark.timeout(240)
DOCKERFILE = """\
FROM e2bdev/base
ARG WHO=nobody
RUN echo "made for $WHO" > /made
COPY --chown=user files/ /home/user/files/
WORKDIR /home/user/files
CMD ["python3", "-m", "http.server", "8000"]
"""


def template(live: Live, *arguments: str, fails: bool = False) -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "sandpit.cli", "template", *arguments], env=live.environment | live.clients,
        capture_output=True, text=True, timeout=200, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert bool(done.returncode) is fails, done.stdout + done.stderr
    return done.stdout + done.stderr


def output(live: Live, template_id: str, command: str) -> str:
    import e2b

    with e2b.Sandbox.create(template_id, api_key=live.key, api_url=live.api_url, sandbox_url=live.edge_url) as sandbox:
        return str(sandbox.commands.run(command).stdout)


@pytest.mark.official_client
def test_a_directory_and_its_template(live: Live, tmp_path: Path) -> None:
    called = f"site-{secrets.token_hex(4)}"
    (tmp_path / "files").mkdir()
    (tmp_path / "files/index.html").write_text("welcome")
    (tmp_path / "files/secret.env").write_text("x")
    (tmp_path / ".dockerignore").write_text("**/*.env\n")
    (tmp_path / "e2b.Dockerfile").write_text(DOCKERFILE)
    where = ("-p", str(tmp_path))
    ready = (
        "--ready-cmd",
        "curl -sf localhost:8000",
        "--build-arg",
        "WHO=you",
        "--cpu-count",
        "2",
        "--memory-mb",
        "512",
    )
    said = template(live, "build", *where, "-n", called, *ready)
    assert "Template is ready" in said
    config = load(tmp_path / "e2b.toml")
    assert config == TemplateConfig(
        config.template_id, called, "e2b.Dockerfile", None, "curl -sf localhost:8000", 2, 512
    )
    assert config.template_id is not None
    shown = output(live, called, "cat /made; curl -s localhost:8000; echo; ls -l; pwd")
    assert shown.splitlines()[:2] == ["made for you", "welcome"]
    assert "secret" not in shown
    assert shown.splitlines()[-1] == "/home/user/files"

    (tmp_path / "files/index.html").write_text("welcome back")
    said = template(live, "build", *where, "-c", "exec python3 -m http.server 8000 --directory /")
    assert "CACHED" in said
    assert load(tmp_path / "e2b.toml").template_id == config.template_id, "the same template"
    assert "made for nobody" in output(live, called, "cat /made; ls")

    listed = json.loads(template(live, "list", "--json"))
    assert [one["templateID"] for one in listed if called in one["aliases"]] == [config.template_id]
    assert called in template(live, "list")
    assert f"default/{called}" in template(live, "publish", *where)
    template(live, "unpublish", called)

    (tmp_path / "e2b.Dockerfile").write_text("FROM e2bdev/base\nRUN echo the reason >&2; exit 5\n")
    said = template(live, "build", *where, fails=True)
    assert "the reason" in said
    assert "exit status 5" in said
    assert "welcome back" in output(live, called, "cat ~/files/index.html"), "the template stays as it was"

    template(live, "delete", *where, "-y")
    assert not (tmp_path / "e2b.toml").exists()
    assert called not in template(live, "list")


def test_what_is_wrong_is_said(live: Live, tmp_path: Path) -> None:
    where = ("-p", str(tmp_path))
    assert "template init" in template(live, "build", *where, fails=True)
    assert "Wrote" in template(live, "init", *where)
    assert "already" in template(live, "init", *where, fails=True)
    assert "must be divisible by 2" in template(live, "build", *where, "--memory-mb", "513", fails=True)
    (tmp_path / "sandpit.Dockerfile").write_text("FROM e2bdev/base\nCOPY nothing /x\n")
    assert "line 2: 'nothing' is not in" in template(live, "create", "some-name", *where, fails=True)
    assert "no template is named" in template(live, "delete", *where, fails=True)
    assert "not found" in template(live, "delete", "nothing-of-this-name", fails=True)
