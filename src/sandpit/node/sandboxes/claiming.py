"""The moment at which a sandbox that waited gets an owner."""

from __future__ import annotations

from sandpit.contract.node import SandboxSpec
from sandpit.node.config import NodeConfig
from sandpit.node.guests.agent import Identity
from sandpit.node.network.firewall import Firewall
from sandpit.node.sandboxes.launcher import Launcher, Sandbox


async def claim(
    sandbox: Sandbox, spec: SandboxSpec, config: NodeConfig, launcher: Launcher, firewall: Firewall
) -> None:
    """Make a sandbox that belongs to nobody the one that was asked for.

    Rules first, then the record, then the guest: no owner's code runs under rules of somebody else, or in a sandbox that the
    next server would not know. The record has the agent's new secret and the old one, so that the next server gets in,
    whichever counts. Raises: AgentUnavailable, NodeError, OSError; the sandbox must be discarded then.
    """
    image = sandbox.image
    if spec.network != sandbox.policy:
        await firewall.set_policy(sandbox.slot.link, sandbox.slot.outer, spec.network)
        sandbox.policy = spec.network
    env = {**config.trust.env, **image.env, **spec.env}
    identity = Identity(
        spec.sandbox_id, spec.template_id, spec.access_token, env, image.user, image.workdir, spec.resumed
    )
    sandbox.sandbox_id = spec.sandbox_id
    sandbox.agent.secret.offer()
    launcher.wake(sandbox)
    sandbox.record().write(sandbox.directory)
    await launcher.runtime_named(sandbox.runtime).name_host(sandbox.process, spec.sandbox_id)
    await sandbox.agent.claim(identity)
