"""`sandpit server`: the process itself."""

from __future__ import annotations

import asyncio
import logging
import sys

from sandpit.cli.errors import CliError
from sandpit.cli.local import load_settings, need_root
from sandpit.private import hide

_LEVELS = ("debug", "info", "warning", "error")
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def run(log_level: str) -> None:
    """Serve until stopped. Raises: CliError for what an operator can mend; the rest keeps its traceback."""
    if log_level not in _LEVELS:
        raise CliError(f"{log_level!r} is no log level", f"take one of {', '.join(_LEVELS)}", status=2)
    settings = load_settings()
    need_root("the server")
    hide()
    logging.basicConfig(level=log_level.upper(), format=_FORMAT, stream=sys.stderr)
    for chatty in ("alembic.runtime", "httpx", "httpcore"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    import uvloop

    from sandpit.build.closure import ClosureError
    from sandpit.build.wheels import InstallError
    from sandpit.certificates import CertificateError
    from sandpit.node.contract import NodeError
    from sandpit.server import AlreadyRunning, serve

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings))
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
