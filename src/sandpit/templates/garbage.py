"""Layers and root file systems that nothing needs any more.

Needed is what a build's description on disk lists. Layers of steps and images that no description lists are a cache: they stay for builds
that could use them again, until nobody has for some time. What came with the product is not touched.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sandpit.lib.partials import remove_tree
from sandpit.templates.usage import TEAMS_STEPS

if TYPE_CHECKING:
    from pathlib import Path

    from sandpit.node.config import NodeConfig
    from sandpit.templates.layers.store import Layer, LayerStore

log = logging.getLogger(__name__)


class Hold:
    """The layers that one build uses: nobody throws them away before it ends."""

    def __init__(self, store: LayerStore, lock: threading.Lock) -> None:
        """`lock` is the garbage's."""
        self._store = store
        self._lock = lock
        self.keys: set[str] = set()

    def claim(self, key: str) -> Layer | None:
        """The layer, if it is there. In any case nobody throws it away from now on, so ask before making one."""
        with self._lock:
            self.keys.add(key)
            layer = self._store.find(key)
        if layer is not None:
            with contextlib.suppress(OSError):
                os.utime(layer.path)  # of use again
        return layer


class Garbage:
    """Throws away. Blocking: call `collect` in a thread."""

    def __init__(self, config: NodeConfig, store: LayerStore) -> None:
        """Nothing is touched before `collect`."""
        self._config = config
        self._store = store
        self._lock = threading.Lock()
        """Guards the moment between looking whether a layer is needed and taking it away."""
        self._holds: list[Hold] = []

    @contextmanager
    def holding(self) -> Iterator[Hold]:
        """For one build."""
        hold = Hold(self._store, self._lock)
        self._holds.append(hold)
        try:
            yield hold
        finally:
            self._holds.remove(hold)

    def collect(self) -> int:
        """Remove layers that nothing needs and nobody used lately, and root file systems made of them; returns how many layers.

        A crash in between leaves whole layers only. Raises: OSError, ValueError (a description that cannot be read: nothing is removed).
        """
        oldest = time.time() - self._config.layer_cache_hours * 3600
        removed = 0
        for path in sorted(self._store.root.iterdir()):
            if not path.name.startswith(".") and _is_old(path, oldest) and (hidden := self._take_away(path.name)):
                remove_tree(hidden)
                removed += 1
        if removed:
            log.info("%d layers were thrown away", removed)
        self._collect_roots(oldest)
        return removed

    def _take_away(self, key: str) -> Path | None:
        with self._lock:
            if key in self._needed() or any(key in hold.keys for hold in self._holds):
                return None
            return self._store.hide(key)

    def _collect_roots(self, oldest: float) -> None:
        """Root file systems whose layers are gone, or that no build has and nobody made lately."""
        stacks = self._stacks()
        for about in self._config.roots_dir.glob("*.json"):
            try:
                layers = tuple(json.loads(about.read_text()))
                old = about.stat().st_mtime <= oldest
            except (OSError, ValueError):
                continue
            missing = any(self._store.find(key) is None for key in layers)
            ours = any((layer := self._store.find(key)) is not None and layer.step in TEAMS_STEPS for key in layers)
            if layers not in stacks and (missing or (ours and old and not self._holds)):
                about.unlink(
                    missing_ok=True
                )  # first: what has none is not looked at, and is made again when it is needed
                about.with_suffix(".erofs").unlink(missing_ok=True)
                shutil.rmtree(about.with_suffix(""), ignore_errors=True)

    def _stacks(self) -> set[tuple[str, ...]]:
        """The layers of each build's root file system, and those on top of it."""
        found: set[tuple[str, ...]] = set()
        for image in self._images():
            layers, count = tuple(image["layers"]), image.get("root_layers") or len(image["layers"])
            found |= {layers[:count], layers[count:]}
        return found

    def _images(self) -> Iterator[dict[str, Any]]:
        for path in self._config.images_dir.glob("*/image.json"):
            yield json.loads(path.read_text())

    def _needed(self) -> set[str]:
        return {key for image in self._images() for key in image["layers"]}


def _is_old(path: Path, oldest: float) -> bool:
    """Whether a layer is one that is thrown away when nothing needs it, and nobody used it lately."""
    try:
        about = json.loads((path / "layer.json").read_text())
        return about["step"] in TEAMS_STEPS and path.stat().st_mtime <= oldest
    except (OSError, ValueError, KeyError):
        return False
