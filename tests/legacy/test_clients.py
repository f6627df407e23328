"""Everything that the documentation of 2024 shows, by the official clients of the time (docs/legacy.md has the table)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.legacy.conftest import SECONDS, Programs, needed, settings_of
from tests.live import Live

from sandpit.node.snapshots.images import Image
from sandpit.provision.builtin import builtin_images

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.timeout(SECONDS + 30)


@pytest.mark.parametrize(
    "names",
    [
        # Beside each other, because sandboxes as a whole are mostly waited for.
        ("sandbox_checks", "sandbox.test.mjs", "lifecycle_checks", "lifecycle.test.mjs"),
        ("interpreter_checks", "interpreter.test.mjs"),
    ],
    ids=["sandboxes", "interpreter"],
)
def test_client(names: tuple[str, ...], programs: Programs) -> None:
    programs.run(*names)


def test_without_names(live: Live, tmp_path: Path) -> None:
    needed()
    settings = settings_of(live)
    port = settings["E2B_DOMAIN"].rpartition(":")[2]
    Programs(settings | {"E2B_DOMAIN": f"any:any@localhost:{port}"}, tmp_path).run("no_names_checks")


def test_start_command_logs(built_images: None, tmp_path: Path) -> None:
    """On crun, where starting is quick and sudo is the image's own; the other tests are on gVisor."""
    needed()
    server = Live({"SANDPIT_RUNTIME": "crun", "SANDPIT_POOL__SIZE": "0"})
    base = builtin_images()[0]
    folder = server.data_dir / "images"
    command = "echo started; touch /tmp/ready; while sleep 0.2; do echo later; done"
    Image(
        "with-start-command", "b0a1c2d3-0000-4000-8000-000000000001", ("with-start-command",), base.layers,
        user="user", workdir="/home/user", start_cmd=command, ready_cmd="test -e /tmp/ready",
    ).write(folder)  # fmt: skip
    interpreter = builtin_images()[1]
    Image(
        "custom-interpreter", "b0a1c2d3-0000-4000-8000-000000000002", ("custom-interpreter",), interpreter.layers,
        user="user", workdir="/home/user", start_cmd="/home/user/.jupyter/start-up.sh", ready_cmd=interpreter.ready_cmd,
    ).write(folder)  # fmt: skip
    server.start()
    try:
        Programs(settings_of(server), tmp_path).run("start_command_checks", "start_command.test.mjs")
    finally:
        server.stop()
        server.remove()
