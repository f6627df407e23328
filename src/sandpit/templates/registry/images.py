"""Images of registries as layers of the store."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from sandpit.lib import mounts, programs
from sandpit.lib.partials import remove_tree
from sandpit.templates.layers.store import IMAGE_STEP, Layer, LayerStore, layer_key
from sandpit.templates.layers.unpacking import UnpackFailed, unpack
from sandpit.templates.registry import references
from sandpit.templates.registry.fetch import Manifest, Puller
from sandpit.templates.registry.manifests import ImageRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from sandpit.contract.builder import Registry
    from sandpit.templates.garbage import Hold
    from sandpit.templates.layers.unpack import Limits

_SQUASH_ABOVE = 30
"""Layers; one mount holds about sixty, and each costs a microsecond for every name that is looked for."""


@dataclass(frozen=True, slots=True)
class BaseImage:
    """An image that is here: its layers, lowest first, and what its configuration says."""

    layers: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    digest: str = ""


class Importer:
    """Brings images into the store. A layer that is there already is not unpacked again, but a team must have downloaded it once:
    knowing a digest gives nobody another team's files."""

    def __init__(self, store: LayerStore, puller: Puller, known: Path, limits: Limits) -> None:
        """`known` is where it is written down which team has had which image."""
        self._store = store
        self._puller = puller
        self._known = known
        self._limits = limits

    async def get(
        self, name: str, tenant: str, registry: Registry, hold: Hold, say: Callable[[str], None]
    ) -> BaseImage:
        """Raises: ImageRefused, OSError."""
        reference = references.parse(name)
        if reference is None:
            raise ImageRefused(f"'{name[:200]}' is no name of an image")
        manifest = await self._puller.find(reference, registry)
        note = self._known / hashlib.sha256(tenant.encode()).hexdigest()[:32] / manifest.digest.removeprefix("sha256:")
        if (known := self._recall(note, hold)) is not None:
            say(f"using {reference}, {manifest.digest}")
            return known
        size = sum(blob.size for blob in manifest.layers)
        say(f"fetching {reference}, {manifest.digest}: {len(manifest.layers)} layers, {size / 1e6:.1f} MB")
        image = await self._download(manifest, registry, hold)
        note.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = note.with_suffix(".new")
        fresh.write_text(json.dumps(asdict(image)))
        fresh.rename(note)
        return image

    def _recall(self, note: Path, hold: Hold) -> BaseImage | None:
        try:
            fields = json.loads(note.read_text())
        except (FileNotFoundError, ValueError):
            return None
        layers = tuple(fields["layers"])
        claimed = [hold.claim(key) for key in layers]
        if None in claimed:
            return None  # they were thrown away
        return BaseImage(layers, fields["env"], fields["digest"])

    async def _download(self, manifest: Manifest, registry: Registry, hold: Hold) -> BaseImage:
        async with self._puller.fetch(manifest, registry) as fetched:
            layers: list[Layer] = []
            left = self._limits.bytes
            for blob, file in zip(manifest.layers, fetched.layers, strict=True):
                layer = await self._unpacked(file, blob.digest, layers, hold, left=left, zstd=blob.zstd)
                left -= layer.bytes
                if left < 0:  # those that were there already count as well
                    raise ImageRefused(f"the image unpacks to more than {self._limits.bytes >> 20} MiB")
                layers.append(layer)
                if len(layers) > _SQUASH_ABOVE:
                    layers = [await asyncio.to_thread(self._squashed, layers, hold)]
            config = fetched.config
        kept = tuple(layer.key for layer in layers if not layer.empty) or (layers[0].key,)
        return BaseImage(kept, _environment(config), manifest.digest)

    async def _unpacked(
        self, file: Path, digest: str, below: list[Layer], hold: Hold, *, left: int, zstd: bool
    ) -> Layer:
        """`left` is what the image may still unpack to, in bytes. Raises: ImageRefused."""
        parent = below[-1].key if below else None
        key = layer_key(parent, IMAGE_STEP, digest)
        if layer := hold.claim(key):
            return layer
        try:
            with self._store.building(key, parent=parent, step=IMAGE_STEP, durable=False) as fs:
                await unpack(file, fs, [layer.fs for layer in below], replace(self._limits, bytes=left), zstd=zstd)
        except UnpackFailed as error:
            allowed = f"all layers together may have {self._limits.bytes >> 20} MiB"
            raise ImageRefused(f"layer {len(below) + 1} of the image is refused: {error} ({allowed})") from error
        layer = self._store.find(key)
        if layer is None:
            raise ImageRefused("a layer of the image was thrown away while it was used: try again")
        return layer

    def _squashed(self, layers: list[Layer], hold: Hold) -> Layer:
        """One layer that is all of these together."""
        key = layer_key(None, f"{IMAGE_STEP}, squashed", *(layer.key for layer in layers))
        if layer := hold.claim(key):
            return layer
        with self._store.building(key, parent=None, step=IMAGE_STEP, durable=False) as fs:
            merged = fs.parent / "merged"
            merged.mkdir()
            mounts.overlay(merged, [layer.fs for layer in layers])
            try:
                shutil.rmtree(fs)
                _copy_tree(merged, fs)
            finally:
                mounts.unmount(merged)
            remove_tree(merged)
        layer = self._store.find(key)
        if layer is None:
            raise ImageRefused("a layer of the image was thrown away while it was used: try again")
        return layer


def _copy_tree(source: Path, target: Path) -> None:
    programs.call("cp", "-a", "--sparse=always", str(source), str(target), check=True)


def _environment(config: Mapping[str, Any]) -> dict[str, str]:
    found = config.get("Env") or []
    pairs = [str(entry).partition("=") for entry in found if isinstance(entry, str)] if isinstance(found, list) else []
    return {name: value for name, equals, value in pairs if name and equals and "\0" not in name + value}
