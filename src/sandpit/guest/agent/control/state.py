"""What the agent knows about the sandbox it runs in: set by `POST /init`, read by everything else."""

from __future__ import annotations

from dataclasses import dataclass, field

from sandpit.guest.agent.control.journal import Journal
from sandpit.guest.agent.control.secrets import ControlKeys


@dataclass(slots=True)
class AgentState:
    """One per agent. Everything but `gateway` and `journal` is replaced by each `POST /init` (architecture, The guest)."""

    gateway: str = "169.254.0.22"
    """The only TCP peer whose control calls and relay connections are served, if it has the secret."""
    control: ControlKeys | None = None
    """What control calls and relay connections are checked against; None refuses all."""
    access_token: str | None = None
    """Demanded in `X-Access-Token`; None leaves the sandbox open."""
    env: dict[str, str] = field(default_factory=dict)
    """Global environment of every process: the identity variables, the template's, the sandbox's."""
    default_user: str = "root"
    default_workdir: str | None = None
    sandbox_id: str = ""
    template_id: str = ""
    instance: str = ""
    """Random, new with every `POST /init`: tells two lives of one snapshot apart."""
    journal: Journal = field(default_factory=Journal)
    """Stays the same object; emptied when another sandbox begins."""
