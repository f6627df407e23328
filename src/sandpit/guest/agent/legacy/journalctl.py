"""The start command's output where clients of 2024 look for it: `journalctl _SYSTEMD_UNIT=start_cmd.service` (legacy-protocol 3.8)."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from sandpit.guest.agent.process.start_log import TEXT

_LOG = logging.getLogger(__name__)
PROGRAM = Path("/usr/local/bin/journalctl")
"""The first place where sudo looks (sudoers, secure_path)."""
_SCRIPT = f"""\
#!/bin/sh
# Sandpit: a sandbox has no systemd. What the template's start command writes is in files.
case " $* " in
*" _SYSTEMD_UNIT=start_cmd.service "*)
    cat {TEXT.older} 2>/dev/null
    case " $* " in
    *" --follow "* | *" -f "*) exec tail -n +1 -F {TEXT.path} 2>/dev/null ;;
    *) exec cat {TEXT.path} 2>/dev/null ;;
    esac ;;
esac
if [ -x /usr/bin/journalctl ]; then exec /usr/bin/journalctl "$@"; fi
echo "journalctl: there is no journal here" >&2
exit 1
"""


def install() -> None:
    """Put the program where it is found, unless there is one already."""
    if os.getpid() != 1:
        return  # not in a sandbox: these programs are somebody else's
    try:
        PROGRAM.parent.mkdir(parents=True, exist_ok=True)
        with PROGRAM.open("x") as file:
            file.write(_SCRIPT)
        PROGRAM.chmod(0o755)
    except FileExistsError:
        return
    except OSError as problem:
        _LOG.warning("start command logs cannot be read: %s", problem)
