"""The templates that come with the product, as images that a node can start."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from pathlib import Path

from sandpit.node.snapshots.images import Image
from sandpit.provision.base import base_key
from sandpit.provision.interpreter import START_COMMAND, interpreter_key
from sandpit.templates.layers.store import LayerStore

BASE = "base"
CODE_INTERPRETER = "code-interpreter-v1"
_NAMESPACE = uuid.UUID("9f0c4c0e-6d3b-5f57-9d6f-6f5b0c8f5a11")
"""Build ids are derived from what is in a build, so that the same build has the same id everywhere."""


def builtin_images() -> list[Image]:
    """`base`, and the code interpreter on top of it (code-interpreter 2.1)."""
    base = base_key()
    interpreter = interpreter_key()
    return [
        _image(Image(BASE, "", (BASE,), (base,), user="user", workdir="/home/user")),
        _image(
            Image(
                CODE_INTERPRETER,
                "",
                (CODE_INTERPRETER, "code-interpreter", "code-interpreter-stateful"),
                (base, interpreter),
                user="user",
                workdir="/home/user",
                start_cmd=START_COMMAND,
                start_user="root",
                ready_cmd="curl -sf -o /dev/null http://localhost:49999/ready",
                memory_mb=2048,
                disk_mb=20480,
            )
        ),
    ]


def _image(image: Image) -> Image:
    """The image with its build id."""
    content = [*image.layers, image.start_cmd or "", image.ready_cmd or "", str(image.memory_mb), str(image.disk_mb)]
    build_id = uuid.uuid5(_NAMESPACE, "\n".join([image.template_id, *content]))
    return replace(image, build_id=str(build_id))


def publish(data_dir: Path) -> list[Image]:
    """Describe the built-in images whose layers are there, so that nodes start them."""
    store = LayerStore(data_dir)
    images_dir = data_dir / "images"
    ready = [image for image in builtin_images() if all(store.find(key) for key in image.layers)]
    for image in ready:
        _retire_older(images_dir, image)
        image.write(images_dir)
    return ready


def _retire_older(images_dir: Path, newest: Image) -> None:
    """Take the names from earlier builds of the same template."""
    for path in images_dir.glob("*/image.json"):
        older = json.loads(path.read_text())
        if older["template_id"] == newest.template_id and older["build_id"] != newest.build_id:
            fresh = path.with_suffix(".new")
            fresh.write_text(json.dumps({**older, "retired": True}))
            fresh.rename(path)
