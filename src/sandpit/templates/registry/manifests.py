"""What registries answer: manifests, lists of them, configurations. A stranger's registry wrote it, so nothing in it is believed."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandpit.contract.errors import NodeError

if TYPE_CHECKING:
    from sandpit.templates.registry.references import Reference

MANIFEST_BYTES = 4 << 20
_LISTS = ("application/vnd.docker.distribution.manifest.list.v2+json", "application/vnd.oci.image.index.v1+json")
_LAYERS = {
    "application/vnd.docker.image.rootfs.diff.tar": False,
    "application/vnd.docker.image.rootfs.diff.tar.gzip": False,
    "application/vnd.oci.image.layer.v1.tar": False,
    "application/vnd.oci.image.layer.v1.tar+gzip": False,
    "application/vnd.oci.image.layer.v1.tar+zstd": True,
}
"""Media types that layers may have, and whether they are compressed with zstd. Layers that are to be fetched from elsewhere have others."""
_MOST_LAYERS = 127
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


class ImageRefused(NodeError):
    """The image cannot be had, or is none that can be used here."""


@dataclass(frozen=True, slots=True)
class Blob:
    """One layer in the registry."""

    digest: str
    size: int
    zstd: bool


def parse(raw: str) -> dict[str, Any]:
    """A registry's answer. Raises: ImageRefused."""
    try:
        manifest = json.loads(raw) if len(raw) <= MANIFEST_BYTES else None
    except ValueError:
        manifest = None
    if not isinstance(manifest, dict):
        raise ImageRefused("the registry's answer is no manifest")
    return manifest


def is_index(manifest: dict[str, Any]) -> bool:
    """Whether it lists the images of several machines."""
    return manifest.get("mediaType") in _LISTS or "manifests" in manifest


def for_this_machine(index: dict[str, Any], reference: Reference) -> str:
    """The digest of the image for this processor. Raises: ImageRefused."""
    entries = [entry for entry in index.get("manifests") or [] if isinstance(entry, dict)]
    for entry in entries:
        platform = entry.get("platform") or {}
        if platform.get("os") == "linux" and platform.get("architecture") == architecture():
            return str(entry.get("digest"))
    raise ImageRefused(f"{reference} is not there for linux/{architecture()}")


def contents(manifest: dict[str, Any], reference: Reference) -> tuple[str, tuple[Blob, ...]]:
    """Configuration and layers. Raises: ImageRefused."""
    try:
        layers = tuple(_layer(layer) for layer in manifest["layers"])
        config = str(manifest["config"]["digest"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ImageRefused(f"the manifest of {reference} is damaged, or of a kind that is too old: {error!r}") from None
    if not 1 <= len(layers) <= _MOST_LAYERS:
        raise ImageRefused(f"{reference} has {len(layers)} layers; 1 to {_MOST_LAYERS} are allowed")
    return config, layers


def _layer(layer: dict[str, Any]) -> Blob:
    kind, size = layer["mediaType"], int(layer["size"])
    if kind not in _LAYERS or layer.get("urls"):
        raise ImageRefused(f"the image has a layer of the kind {str(kind)[:100]}, which cannot be used here")
    if size < 0:
        raise ValueError("a layer's size is negative")
    return Blob(str(layer["digest"]), size, _LAYERS[kind])


def read_config(path: Path) -> dict[str, Any]:
    """The `config` object of an image's configuration. Raises: ImageRefused, OSError."""
    try:
        config = json.loads(path.read_bytes()[:MANIFEST_BYTES]).get("config") or {}
    except (ValueError, AttributeError):
        config = None
    if not isinstance(config, dict):
        raise ImageRefused("the image's configuration is damaged")
    return config


def architecture() -> str:
    """This machine's, in the words of registries."""
    return _MACHINES.get(os.uname().machine, os.uname().machine)
