"""Template builds on disk: what they are made of, and their merged root file systems."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from sandpit.contract.errors import NodeError, UnknownTemplateBuild
from sandpit.contract.node import TemplateImage
from sandpit.lib.private import private
from sandpit.node.config import NodeConfig

T = TypeVar("T")
_BUILD_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


@dataclass(frozen=True, slots=True)
class Image:
    """A template build: `data_dir/images/<build_id>/image.json`. Layers are listed bottom first."""

    template_id: str
    build_id: str
    names: tuple[str, ...]
    layers: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    user: str = "root"
    workdir: str | None = None
    start_cmd: str | None = None
    start_user: str | None = None
    """User of the start command; None takes `user`."""
    ready_cmd: str | None = None
    cpu_count: int = 0
    """vCPUs; 0 in a description takes the node's default, which `load` fills in."""
    memory_mb: int = 0
    """MiB; 0 as above."""
    disk_mb: int = 10240
    pids: int = 1024
    runtime: str = "gvisor"
    retired: bool = False
    """A newer build has taken its names; it stays for sandboxes that still run."""
    root_layers: int = 0
    """How many layers, from the bottom, its root file system is made of where a runtime needs one file; the others are unpacked when it
    boots. 0: all."""
    owner: str = ""
    """The team that built it; empty for those that came with the product."""

    def summary(self) -> TemplateImage:
        """What the control plane needs to know."""
        return TemplateImage(
            self.template_id, self.build_id, self.names, self.cpu_count, self.memory_mb, self.disk_mb, self.runtime
        )

    def write(self, images_dir: Path) -> None:
        """Store the description atomically; its layers must exist already."""
        target = images_dir / self.build_id / "image.json"
        private(images_dir)
        target.parent.mkdir(exist_ok=True, mode=0o700)
        temporary = target.with_suffix(".new")
        temporary.write_text(json.dumps(asdict(self), indent=1))
        temporary.rename(target)


def load(config: NodeConfig, build_id: str) -> Image:
    """Read one build. Raises: UnknownTemplateBuild, NodeError when its description is damaged."""
    if not _BUILD_ID.fullmatch(build_id):
        raise UnknownTemplateBuild(f"{build_id!r} is not a build id")
    path = config.images_dir / build_id / "image.json"
    try:
        fields = json.loads(path.read_text())
    except FileNotFoundError:
        raise UnknownTemplateBuild(f"template build {build_id} is not on this node") from None
    except ValueError as error:
        raise NodeError(f"{path} is damaged ({error}): build the template again") from error
    image = Image(**{**fields, "names": tuple(fields["names"]), "layers": tuple(fields["layers"])})
    return replace(image, cpu_count=image.cpu_count or config.cpu_count, memory_mb=image.memory_mb or config.memory_mb)


def load_all(config: NodeConfig) -> list[Image]:
    """The builds that came with the product, and that new sandboxes may be made of."""
    found = [load(config, path.parent.name) for path in sorted(config.images_dir.glob("*/image.json"))]
    return [image for image in found if not image.retired and not image.owner]


def load_owned(config: NodeConfig) -> list[Image]:
    """The builds on this node that teams have made."""
    found = [load(config, path.parent.name) for path in sorted(config.images_dir.glob("*/image.json"))]
    return [image for image in found if image.owner]


def split(image: Image, layers: tuple[T, ...]) -> tuple[tuple[T, ...], tuple[T, ...]]:
    """The layers of the root file system, and those that are unpacked onto it."""
    count = image.root_layers or len(layers)
    return layers[:count], layers[count:]


def layer_paths(config: NodeConfig, image: Image) -> list[Path]:
    """The image's layers, bottom first. Raises: NodeError when one is missing."""
    paths = [config.layers_dir / key / "fs" for key in image.layers]
    for path in paths:
        if not path.is_dir():
            raise NodeError(f"layer {path.parent.name} of template {image.names} is missing: build the template again")
    return paths
