"""What the template builds of a team take up on disk."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sandpit.node.snapshots import images
from sandpit.templates.layers.store import IMAGE_STEP, TEMPLATE_STEP, tree_bytes

if TYPE_CHECKING:
    from collections.abc import Collection

    from sandpit.node.config import NodeConfig
    from sandpit.templates.layers.store import LayerStore

TEAMS_STEPS = (TEMPLATE_STEP, IMAGE_STEP)
"""Layers of these are a team's; the others came with the product, and count for nobody."""


def template_bytes(config: NodeConfig, store: LayerStore, owner: str) -> int:
    """Bytes of the layers of a team's builds, of the root file systems made of them, and of their snapshots.

    What several of its builds share counts once. Blocking. Raises: OSError, NodeError for a description that cannot be read.
    """
    owned = [image for image in images.load_owned(config) if image.owner == owner]
    found = {key: store.find(key) for image in owned for key in image.layers}
    layers = {key: layer.bytes for key, layer in found.items() if layer is not None and layer.step in TEAMS_STEPS}
    stacks = {stack for image in owned for stack in images.split(image, image.layers)}
    roots = _root_bytes(config, {stack for stack in stacks if any(key in layers for key in stack)})
    snapshots = sum(tree_bytes(config.snapshots_dir / image.build_id) for image in owned)
    return sum(layers.values()) + roots + snapshots


def _root_bytes(config: NodeConfig, stacks: Collection[tuple[str, ...]]) -> int:
    """Of the files in `roots_dir` that were made of these layers, as the JSON file beside each says."""
    total = 0
    for about in config.roots_dir.glob("*.json"):
        try:
            layers = tuple(json.loads(about.read_text()))
        except FileNotFoundError:
            continue  # thrown away meanwhile
        if layers in stacks:
            image = about.with_suffix(".erofs")
            total += image.stat().st_blocks * 512 if image.exists() else tree_bytes(about.with_suffix(""))
    return total
