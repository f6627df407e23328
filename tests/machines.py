"""Nodes for tests: names, directories and networks of their own, and the images that quickstart built."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import uvloop

from sandpit.contract.node import NetworkPolicy, RunningSandbox, SandboxMetric, SandboxSpec
from sandpit.node.config import NodeConfig
from sandpit.node.sandboxes.local import LocalNode
from sandpit.node.snapshots import images
from sandpit.node.snapshots.images import Image
from sandpit.provision.builtin import builtin_images
from sandpit.provision.closure import build_closure
from sandpit.server.assemble import find_runsc, runtimes
from sandpit.templates.builder import Builder

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

T = TypeVar("T")
REPOSITORY = Path(__file__).resolve().parents[1]
RUNTIMES = ("gvisor", "crun")
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_numbers = itertools.count(1)
_network_numbers = itertools.count(os.getpid() % 64)
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


def _base36(number: int) -> str:
    text = ""
    while number:
        number, digit = divmod(number, 36)
        text = _DIGITS[digit] + text
    return text


RUN = f"t{_base36(os.getpid() % 36**3)}"
"""Every node of this test run has a name that begins with this; `x` and its number follow."""
ROOT = Path(tempfile.gettempdir()) / f"sandpit-{RUN}"
"""Everything that this test run's nodes keep on disk."""


def wait_for(what: Callable[[], object], seconds: float = 30) -> None:
    """Return as soon as `what` is true."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def cache_dir() -> Path:
    """The data directory with the built images: SANDPIT_DATA_DIR, else one in the source tree."""
    return Path(os.environ.get("SANDPIT_DATA_DIR") or REPOSITORY / ".cache/sandpit")


def snapshots_dir() -> Path:
    """Snapshots of the templates, for the servers of this worker; a directory belongs to one server at a time while they are made."""
    path = cache_dir() / f"snapshots-{WORKER}"
    path.mkdir(exist_ok=True, mode=0o711)
    return path


def why_not() -> str | None:
    """Why no node can run here; None if one can."""
    if os.geteuid() != 0:
        return "sandboxes need root"
    cache = cache_dir()
    if find_runsc(cache) is None:
        return f"no runsc below {cache}: run ./test, or python -m sandpit.provision host"
    layers = {layer for image in builtin_images() for layer in image.layers}
    if not all((cache / "layers" / layer).is_dir() for layer in layers):
        return f"no images below {cache}: run ./test, or python -m sandpit.provision images"
    return None


def new_name() -> str:
    """A node name that nothing else on this machine has; at most 8 characters."""
    return f"{RUN}x{_base36(next(_numbers))}"


def new_network() -> IPv4Network:
    """256 addresses that no other node of this run has, in no worker of it."""
    return IPv4Network(f"10.{192 + (os.getpid() >> 6) % 8 + 8 * (WORKER % 8)}.{next(_network_numbers) % 256}.0/24")


def new_directories(name: str) -> tuple[Path, Path]:
    """A node's data and run directory; the data directory shares layers, closures and binaries with the cache."""
    cache, data, run = cache_dir(), ROOT / name / "data", ROOT / name / "run"
    ROOT.mkdir(mode=0o711, exist_ok=True)
    for directory in (ROOT / name, data, run, data / "images"):
        directory.mkdir(mode=0o711)
    for shared in ("layers", "closure", "bin", "cache", "roots"):
        (cache / shared).mkdir(exist_ok=True, mode=0o711)
        (data / shared).symlink_to(cache / shared)
    return data, run


def own_layers(data: Path) -> None:
    """Let a data directory have layers and root file systems of its own besides the cache's: what is built here goes with it."""
    cache = cache_dir()
    asyncio.run(_make_roots(cache))
    for shared, keep in (("layers", {key for image in builtin_images() for key in image.layers}), ("roots", None)):
        (data / shared).unlink()
        (data / shared).mkdir(mode=0o711)
        for path in (cache / shared).iterdir():
            if path.name in keep if keep is not None else path.suffix == ".erofs":
                (data / shared / path.name).symlink_to(path)


async def _make_roots(cache: Path) -> None:
    """Have the built-in templates' root file systems in the cache: making them takes long."""
    config = NodeConfig(cache, ROOT / "roots")
    gvisor = runtimes(config)["gvisor"]
    for one in builtin_images():
        await gvisor.root(images.layer_paths(config, one), config.roots_dir)
    shutil.rmtree(config.run_dir)


def image(template: str = "base", **changes: Any) -> Image:
    """A description of a built-in template."""
    return replace(next(one for one in builtin_images() if template in one.names), **changes)


@dataclass
class Box:
    """A running sandbox, as a test holds it."""

    machine: Machine
    info: RunningSandbox

    @property
    def id(self) -> str:
        return self.info.sandbox_id

    @property
    def directory(self) -> Path:
        """Where the node keeps it."""
        return self.machine.node._sandboxes[self.id].directory

    @property
    def processes(self) -> list[int]:
        """Pids of all its host processes."""
        return self.machine.node._sandboxes[self.id].cgroup.processes()

    @property
    def first_process(self) -> int:
        return self.machine.node._sandboxes[self.id].process.pid

    def run(self, command: str, user: str = "root") -> tuple[int, str]:
        """Exit status and output of a shell command."""
        return self.machine.wait(self.machine.node._sandboxes[self.id].agent.run(command, user=user))

    def sh(self, command: str, user: str = "root") -> str:
        """The output of a shell command that must succeed."""
        status, output = self.run(command, user)
        assert status == 0, f"{command!r} ended with {status}: {output}"
        return output.strip()

    def python(self, source: str, user: str = "root") -> str:
        """The output of a Python program."""
        return self.sh(f"python3 - <<'END_OF_PROGRAM'\n{source}\nEND_OF_PROGRAM", user)

    def metrics(self) -> SandboxMetric:
        return self.machine.wait(self.machine.node.metrics(self.id))

    def set_policy(self, policy: NetworkPolicy) -> None:
        self.machine.wait(self.machine.node.update_network(self.id, policy))

    def kill(self) -> None:
        self.machine.wait(self.machine.node.kill(self.id))


@dataclass
class Machine:
    """A LocalNode on an event loop of its own, in a thread: tests are plain functions."""

    name: str
    data_dir: Path
    run_dir: Path
    images: Sequence[Image]
    options: Mapping[str, Any]
    gone: dict[str, str] = field(default_factory=dict)

    @classmethod
    def make(cls, images: Sequence[Image], **options: Any) -> Machine:
        """A new node with its own directories; `options` are NodeConfig's. Not started."""
        name = new_name()
        data_dir, run_dir = new_directories(name)
        return cls(
            name, data_dir, run_dir, images, {"network": new_network(), "pool_size": 0, "pool_max": 0, **options}
        )

    def start(self) -> list[RunningSandbox]:
        """Start the node (again); returns the sandboxes that it found."""
        config = NodeConfig(self.data_dir, self.run_dir, self.name, **self.options)
        for one in self.images:
            one.write(config.images_dir)
        closure = build_closure(self.data_dir / "closure", cache=self.data_dir / "cache/uv")
        self.node = LocalNode(config, runtimes(config), closure, Builder)
        self.node.on_gone(self._note_gone)
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"node {self.name}", daemon=True)
        self._thread.start()
        return list(self.wait(self.node.start()))

    async def _note_gone(self, sandbox_id: str, reason: str) -> None:
        self.gone[sandbox_id] = reason

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something on the node's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(55)

    def stop(self, *, kill_sandboxes: bool = True) -> None:
        """End the node; its directories stay."""
        if self._loop.is_closed():
            return
        try:
            self.wait(self.node.stop(kill_sandboxes=kill_sandboxes))
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    def remove(self) -> None:
        """Remove the directories."""
        shutil.rmtree(ROOT / self.name)

    def create(self, build_id: str, network: NetworkPolicy | None = None, **env: str) -> Box:
        """A new sandbox."""
        number = next(_numbers)
        spec = SandboxSpec(f"s{number}", "base", build_id, None, env, network or NetworkPolicy())
        return Box(self, self.wait(self.node.create(spec)))

    def create_many(self, build_id: str, count: int) -> list[Box]:
        """New sandboxes, asked for all at once."""
        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(lambda _: self.create(build_id), range(count)))

    def box(self, info: RunningSandbox) -> Box:
        """A sandbox that the node found."""
        return Box(self, info)

    def records(self) -> list[dict[str, Any]]:
        """What the node keeps on disk about its sandboxes."""
        return [json.loads(path.read_text()) for path in (self.data_dir / "sandboxes").glob("*/record.json")]

    def add(self, new: Image) -> Image:
        """Add a template build to the running node."""
        new.write(self.data_dir / "images")
        images.load(NodeConfig(self.data_dir, self.run_dir, self.name), new.build_id)
        return new
