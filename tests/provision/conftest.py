from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandpit.provision.base import base_key
from sandpit.provision.interpreter import interpreter_key
from sandpit.templates.layers.store import Layer, LayerStore

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def cache_dir() -> Path:
    """A data directory kept between runs: the server's own if SANDPIT_DATA_DIR names one."""
    return Path(os.environ.get("SANDPIT_DATA_DIR") or REPOSITORY / ".cache/sandpit")


def _layers(cache_dir: Path, key: str) -> list[Layer]:
    store = LayerStore(cache_dir)
    if os.geteuid() != 0 or store.find(key) is None:
        pytest.skip(
            "needs root and built images: python -m sandpit.provision images --data-dir DIR, then SANDPIT_DATA_DIR=DIR"
        )
    return store.chain(key)


@pytest.fixture(scope="session")
def base_layers(cache_dir: Path) -> list[Layer]:
    return _layers(cache_dir, base_key())


@pytest.fixture(scope="session")
def interpreter_layers(cache_dir: Path) -> list[Layer]:
    return _layers(cache_dir, interpreter_key())
