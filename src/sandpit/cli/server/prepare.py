"""`sandpit prepare`: what a machine needs before its first server."""

from __future__ import annotations

from sandpit.cli.errors import CliError
from sandpit.cli.server.local import load_settings, need_root


def prepare() -> None:
    """Install missing Debian packages and gVisor, build the templates; what is there is left alone. Raises: CliError.

    One at a time: another that has begun with the same data directory is waited for.
    """
    settings = load_settings()
    need_root("preparing this machine")
    from sandpit.provision.__main__ import build_images, prepare_host
    from sandpit.provision.closure import ClosureError
    from sandpit.provision.debian import DebianError
    from sandpit.provision.hosttools import HostError
    from sandpit.provision.wheels import InstallError
    from sandpit.templates.layers.store import LayerError, locked

    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o711)
        with locked(settings.data_dir / "prepare.lock"):
            prepare_host(settings.data_dir)
            build_images(settings.data_dir)
    except (ClosureError, DebianError, HostError, InstallError, LayerError) as error:
        raise CliError(str(error), "mend it and call this again: what is done already is kept") from None
