"""The secret that an agent knows the node by: replaced with every claim, kept over restarts and crashes, in nobody else's hands."""

from __future__ import annotations

import contextlib
import json
import socket
import stat
from typing import TYPE_CHECKING

import httpx
import pytest
from tests.machines import Box, Machine
from tests.node.conftest import base
from tests.node.test_snapshots import Kept

from sandpit.node.guests.agent import AgentUnavailable, Identity
from sandpit.node.guests.control_secret import HEADER, ControlSecret
from sandpit.protocol import ports

if TYPE_CHECKING:
    from collections.abc import Iterator

RELAY_PORT = 49981


@pytest.fixture
def own(built_images: None, runtime: str) -> Iterator[Machine]:
    """A node of its own, started."""
    machine = Machine.make([base(runtime)])
    machine.start()
    yield machine
    machine.stop()
    machine.remove()


@pytest.fixture
def kept(machine: Machine) -> Iterator[Kept]:
    kept = Kept(machine)
    yield kept
    kept.close()


def secret_of(box: Box) -> ControlSecret:
    return box.machine.node._sandboxes[box.id].agent.secret


def control(box: Box, secret: str) -> int:
    """The status of a control call with this secret, from where the node is."""
    url = f"http://{box.info.address}:{ports.AGENT}/unfreeze"
    return httpx.post(url, headers={HEADER: secret}, trust_env=False, timeout=20).status_code


def relay(box: Box, secret: str) -> bytes:
    """What the relay says about a port that nothing listens on."""
    with socket.create_connection((box.info.address, RELAY_PORT), 20) as s, contextlib.suppress(ConnectionError):
        s.sendall(f"9 {secret}\n".encode())
        return s.recv(9)
    return b""


@pytest.mark.parametrize("took", [False, True])
def test_a_claim_that_a_crash_breaks_off_loses_nothing(own: Machine, took: bool) -> None:
    """The new secret is on disk before the agent has it: the next server gets in, whether the call was made or not."""
    [image] = own.images
    box = own.create(image.build_id)
    sandbox, before = own.node._sandboxes[box.id], secret_of(box).current

    async def claim() -> None:
        sandbox.agent.secret.offer()
        sandbox.record().write(sandbox.directory)
        if took:
            await sandbox.agent.claim(Identity(box.id, "base", None, {}, "root", None, resumed=True))

    own.wait(claim())
    after = json.loads((sandbox.directory / "record.json").read_text())["secrets"][0]
    own.stop(kill_sandboxes=False)
    [found] = own.start()
    again = own.box(found)
    secret = secret_of(again)
    assert (secret.current, secret.former) == (after if took else before, None)
    assert control(again, secret.current) == 204
    assert control(again, before if took else after) == 404
    assert relay(again, found.relay_secret) == b"-"
    own.wait(own.node.announce_snapshot(box.id))
    assert again.sh("echo on") == "on"


def test_a_server_that_knows_neither_secret_says_so(own: Machine) -> None:
    box = own.create(own.images[0].build_id)
    agent = own.node._sandboxes[box.id].agent
    agent.secret = ControlSecret.recorded(["0" * 64, "1" * 64])
    with pytest.raises(AgentUnavailable) as refused:
        own.wait(agent.unfreeze(5))
    assert str(refused.value).startswith("the sandbox's agent refused /unfreeze: 404")
    assert "0" * 64 not in str(refused.value)
    assert "1" * 64 not in str(refused.value)


def test_copies_of_a_snapshot_share_no_secret(box: Box, kept: Kept, machine: Machine, runtime: str) -> None:
    """A restored agent knows the secret of the moment of the snapshot, until it is claimed."""
    info = kept.take(box)
    manifest = machine.data_dir / "sandbox-snapshots" / info.snapshot_id / "manifest.json"
    assert stat.S_IMODE(manifest.stat().st_mode) == 0o600
    first, second = (kept.start(info, f"copy{number}{runtime}") for number in range(2))
    secrets = [secret_of(one).current for one in (box, first, second)]
    assert json.loads(manifest.read_text())["secret"] == (secrets[0] if info.memory else "")
    for one, own_secret in zip((box, first, second), secrets, strict=True):
        for secret in secrets:
            assert control(one, secret) == (204 if secret == own_secret else 404)
        assert relay(one, own_secret) == b"", "the relay's secret is another one"
        assert relay(one, one.info.relay_secret) == b"-"
        assert control(one, one.info.relay_secret) == 404


def test_the_templates_secret_opens_none_of_its_sandboxes(box: Box, machine: Machine, runtime: str) -> None:
    files = list((machine.data_dir / "snapshots").glob(f"base-{runtime}/*/secret"))
    assert len(files) == (1 if runtime == "gvisor" else 0)
    for file in files:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert control(box, file.read_text()) == 404


def test_a_snapshot_from_before_secrets_boots_from_its_files(
    box: Box, kept: Kept, machine: Machine, runtime: str
) -> None:
    """Its agent would believe whoever has the gateway's address; what it has on disk is kept."""
    box.sh("echo kept > /root/file; (setsid sleep 1000 > /dev/null 2>&1 &)")
    info = kept.take(box)
    path = machine.data_dir / "sandbox-snapshots" / info.snapshot_id / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["secret"]
    path.write_text(json.dumps(manifest))
    copy = kept.start(info, f"old{runtime}")
    assert copy.sh("cat /root/file; pgrep -c sleep || true") == "kept\n0"
    assert control(copy, secret_of(copy).current) == 204
