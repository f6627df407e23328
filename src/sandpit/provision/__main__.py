"""Prepare a machine without the CLI: `python -m sandpit.provision host|images --data-dir DIR`."""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sandpit.lib.private import contents, guarded
from sandpit.provision.base import build_base
from sandpit.provision.builtin import publish
from sandpit.provision.closure import ClosureError, build_closure
from sandpit.provision.debian import DebianError
from sandpit.provision.hosttools import HostError, install_packages, provide_runsc
from sandpit.provision.interpreter import build_interpreter
from sandpit.provision.wheels import InstallError
from sandpit.templates.layers.store import Layer, LayerError, LayerStore


def prepare_host(data_dir: Path) -> None:
    """Install missing packages and a working runsc."""
    guarded(data_dir)
    install_packages(_say)
    _say(f"runsc: {provide_runsc(data_dir, _say)}")


def build_images(data_dir: Path) -> None:
    """Build the closure, `base` and the code-interpreter layer, all at once: each keeps one core busy."""

    def closure() -> str:
        return f"closure: {build_closure(data_dir / 'closure', cache=data_dir / 'cache/uv')}"

    def told(name: str, layer: Layer) -> str:
        return f"{name}: {layer.fs} ({layer.bytes / 1e6:.0f} MB, made in {layer.seconds:.0f} s)"

    store = LayerStore(data_dir)
    with contents(), ThreadPoolExecutor(3) as pool:
        jobs = [
            pool.submit(lambda: told("base", build_base(store, data_dir, _say))),
            pool.submit(closure),
            pool.submit(lambda: told("interpreter", build_interpreter(store, data_dir, _say))),
        ]
    for job in jobs:
        _say(job.result())
    for image in publish(data_dir):
        _say(f"template {image.names[0]}: build {image.build_id}")
    guarded(data_dir)


_STARTED = time.monotonic()


def _say(message: str) -> None:
    sys.stdout.write(f"[{time.monotonic() - _STARTED:6.1f} s] {message}\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sandpit.provision", description=__doc__)
    parser.add_argument("what", choices=["host", "images"])
    parser.add_argument("--data-dir", type=Path, required=True)
    options = parser.parse_args()
    try:
        {"host": prepare_host, "images": build_images}[options.what](options.data_dir.absolute())
    except (ClosureError, DebianError, HostError, InstallError, LayerError) as error:
        sys.exit(f"error: {error}")
    _say("done")


if __name__ == "__main__":
    main()
