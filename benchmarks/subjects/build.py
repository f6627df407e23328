"""Building templates: nothing cached, everything cached, an image of a registry; and what a start command does to creating."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.templates.registry import Entry, Registry, layer

from benchmarks.rig import Rig, rig
from benchmarks.series import Clock, Measurement

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.subjects import Scale

NAME = "build"
_MB = 1 << 20
_POLL_SECONDS = 0.02


def measure(scale: Scale) -> Iterator[Measurement]:
    with tempfile.TemporaryDirectory() as folder:
        registry = Registry(Path(folder))
        mirrors = f'{{"docker.io": "{registry.host}"}}'
        insecure = f'["{registry.host}"]'
        try:
            with rig(
                pool=0, SANDPIT_BUILD__REGISTRY_MIRRORS=mirrors, SANDPIT_BUILD__INSECURE_REGISTRIES=insecure
            ) as made:
                yield from _steps(made, scale.runs(5, 1))
                yield from _start_command(made, scale.runs(15, 2))
                yield from _image(made, registry, scale.runs(3, 1), Path(folder))
        finally:
            registry.close()


def _steps(made: Rig, runs: int) -> Iterator[Measurement]:
    """Three commands, one of which writes 10 MB, a variable and a directory, on `base`."""
    cold, cached = Clock(), Clock()
    for run in range(runs):
        steps = [
            {"type": "RUN", "args": [f"echo {run} {time.monotonic_ns()} > /opt/first", "root"]},
            {"type": "RUN", "args": ["head -c 10M /dev/urandom > /opt/second", "root"]},
            {"type": "ENV", "args": ["COLOUR", "blue"]},
            {"type": "WORKDIR", "args": ["/srv/app"]},
            {"type": "RUN", "args": ["python3 -m venv venv --without-pip"]},
        ]
        made.settle()
        cold.time(lambda steps=steps: build(made, "steps", fromTemplate="base", steps=steps))  # type: ignore[misc]
        made.settle()
        cached.time(lambda steps=steps: build(made, "steps", fromTemplate="base", steps=steps))  # type: ignore[misc]
    note = "snapshot included"
    yield Measurement("build of 5 steps, nothing cached", "ms", cold.values, note=note)
    yield Measurement("build of 5 steps, all cached", "ms", cached.values, "nothing cached", cold.values, note=note)


def _start_command(made: Rig, runs: int) -> Iterator[Measurement]:
    serve = {"startCmd": "python3 -m http.server 8000", "readyCmd": "curl -sf localhost:8000"}
    build(made, "server", fromTemplate="base", steps=[], **serve)
    build(made, "plain", fromTemplate="base", steps=[])
    clocks = {"server": Clock(), "plain": Clock()}
    for _ in range(runs):
        for name, clock in clocks.items():
            made.settle()
            created: list[str] = []
            clock.time(lambda got=created, name=name: got.append(made.create(name)))  # type: ignore[misc]
            made.kill(created[0])
    yield Measurement(
        "cold create, a web server runs already", "ms", clocks["server"].values, "without one", clocks["plain"].values
    )


def _image(made: Rig, registry: Registry, runs: int, folder: Path) -> Iterator[Measurement]:
    """400 MB of files of 100 kB that cannot be compressed, in four layers."""
    clock, references = Clock(), Clock()
    for run in range(runs):
        parts = [
            layer(*(Entry(f"files/{run}-{number}-{file}", os.urandom(100_000)) for file in range(1000)))
            for number in range(4)
        ]
        name = f"library/large{run}"
        registry.push(name, *parts)
        made.settle()
        clock.time(lambda run=run: build(made, "image", fromImage=f"large{run}", steps=[]))  # type: ignore[misc]
        target = folder / f"copy{run}"
        copy = [
            "skopeo",
            "--insecure-policy",
            "copy",
            "-q",
            "--src-tls-verify=false",
            f"docker://{registry.host}/{name}",
            f"dir:{target}",
        ]
        references.time(lambda copy=copy: subprocess.run(copy, check=True))  # type: ignore[misc]
    note = "unpacked, made a root file system, snapshot included"
    yield Measurement("build of an image of 400 MB", "ms", clock.values, "skopeo copy", references.values, note=note)


def build(made: Rig, name: str, **body: Any) -> None:
    """Returns when it is ready. Raises: RuntimeError."""
    asked = made.api.post("/v3/templates", json={"name": name, "cpuCount": 2, "memoryMB": 512}).json()
    path = f"/templates/{asked['templateID']}/builds/{asked['buildID']}"
    made.api.post(f"/v2{path}", json={"force": False, **body}).raise_for_status()
    while (status := made.api.get(f"{path}/status").json())["status"] == "building":
        time.sleep(_POLL_SECONDS)
    if status["status"] != "ready":
        raise RuntimeError(f"{status['reason']}")
