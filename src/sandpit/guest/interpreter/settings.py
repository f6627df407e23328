"""What can be set from outside, read from the environment once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sandpit.protocol import ports

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of the service; `SANDPIT_INTERPRETER_*` variables override the defaults."""

    host: str = "0.0.0.0"
    port: int = ports.INTERPRETER
    default_cwd: str = "/home/user"
    instance_file: Path = Path("/run/sandpit/instance.json")
    """Written by the agent: who this sandbox is, and its environment (docs/architecture.md, The guest)."""
    runtime_dir: Path = Path("/run/sandpit/interpreter")
    """Connection files of the kernels; mode 0700."""
    jupyter_port: int = ports.JUPYTER
    """Where clients of 2024 look for a Jupyter Server; opened when the agent asks for it (docs/legacy.md)."""
    jupyter_dir: Path = Path("/root/.jupyter")
    """Where they read which kernel is the default one."""
    jupyter_socket: Path = Path("/run/e2b-jupyter/server.sock")
    """The same for root in the sandbox, always there: where E2B's template has its Jupyter server since 2026."""
    lender: Path = Path("/run/sandpit/ports/lend.sock")
    """Where the agent lends listening sockets (`sandpit.guest.agent.control.lender`)."""
    transport: str = "ipc"
    """How to talk to ipykernel: `ipc` (unix sockets) or `tcp` (loopback); other kernels know TCP only.

    Large output has stalled for minutes in sandboxes that had waited for long; gVisor's TCP after a restore is suspected.
    """
    preload: tuple[str, ...] = ("numpy", "pandas", "matplotlib.pyplot")
    """Modules that the default Python kernel imports before the first user, where they are installed."""

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read the settings. Raises ValueError for a port that is not a number."""
        default = cls()
        prefix = "SANDPIT_INTERPRETER_"
        preload = environ.get(prefix + "PRELOAD", ",".join(default.preload))
        return cls(
            host=environ.get(prefix + "HOST", default.host),
            port=int(environ.get(prefix + "PORT", str(default.port))),
            default_cwd=environ.get(prefix + "CWD", default.default_cwd),
            instance_file=Path(environ.get(prefix + "INSTANCE_FILE", str(default.instance_file))),
            runtime_dir=Path(environ.get(prefix + "RUNTIME_DIR", str(default.runtime_dir))),
            jupyter_port=int(environ.get(prefix + "JUPYTER_PORT", str(default.jupyter_port))),
            jupyter_socket=Path(environ.get(prefix + "JUPYTER_SOCKET", str(default.jupyter_socket))),
            lender=Path(environ.get(prefix + "LENDER", str(default.lender))),
            jupyter_dir=Path(environ.get(prefix + "JUPYTER_DIR", str(default.jupyter_dir))),
            transport=environ.get(prefix + "TRANSPORT", default.transport),
            preload=tuple(name.strip() for name in preload.split(",") if name.strip()),
        )
