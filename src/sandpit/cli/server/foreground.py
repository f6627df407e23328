"""`sandpit server`: the process itself."""

from __future__ import annotations

import asyncio
import logging
import sys

from sandpit.cli.errors import CliError
from sandpit.cli.server.local import load_settings, need_root
from sandpit.lib.private import guarded, hide
from sandpit.server.places import log_file

_LEVELS = ("debug", "info", "warning", "error")


def run(log_level: str, *, to_file: bool) -> None:
    """Serve until stopped; log to standard error, or `to_file`, which rotates.

    Raises: CliError for what an operator can put right; the rest keeps its traceback.
    """
    if log_level not in _LEVELS:
        raise CliError(f"{log_level!r} is no log level", f"take one of {', '.join(_LEVELS)}", status=2)
    settings = load_settings()
    need_root("the server")
    hide()
    from sandpit.lib.serverlog import RotatingLog, configure

    if to_file:
        guarded(settings.data_dir)
        handler: logging.Handler = RotatingLog(log_file(settings), settings.log.file_mb << 20, settings.log.files)
    else:
        handler = logging.StreamHandler(sys.stderr)
    share = configure(log_level, handler)
    import uvloop

    from sandpit.contract.errors import NodeError
    from sandpit.provision.closure import ClosureError
    from sandpit.provision.wheels import InstallError
    from sandpit.server.app import AlreadyRunning, serve
    from sandpit.server.certificates import CertificateError

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings, share))
    except AlreadyRunning as error:
        raise CliError(str(error)) from None
    except (CertificateError, ClosureError, InstallError, NodeError) as error:
        raise CliError(str(error), "see `sandpit doctor`") from None
    except OSError as error:
        logging.getLogger(__name__).debug("start-up failed", exc_info=True)
        where = f" ({error.filename})" if error.filename else ""
        raise CliError(
            f"{error.strerror or error}{where}", "is the port taken, or the disk full? See `sandpit doctor`"
        ) from None
