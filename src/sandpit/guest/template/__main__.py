"""Start of one step: `run.py template {"step": "copy", ...}`. Failures go to standard error, with status 1."""

from __future__ import annotations

import json
import sys
import tarfile
from collections.abc import Callable

from sandpit.guest.template import accounts, copy
from sandpit.guest.template.errors import StepFailed

_STEPS: dict[str, Callable[..., object]] = {
    "copy": copy.copy,
    "provision": accounts.provision,
    "user": accounts.add_user,
    "workdir": accounts.make_directory,
}


def main() -> None:
    """Run the step that the only argument describes."""
    step = json.loads(sys.argv[1])
    try:
        _STEPS[step.pop("step")](**step)
    except (StepFailed, OSError, tarfile.TarError, EOFError) as error:
        sys.exit(f"{error}")
