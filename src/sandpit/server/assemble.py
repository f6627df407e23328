"""Putting a node together from the server's settings."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from sandpit.contract.errors import NodeError
from sandpit.lib import programs
from sandpit.node.config import NodeConfig
from sandpit.node.runtime import holes
from sandpit.node.runtime.base import Runtime
from sandpit.node.runtime.crun import Crun
from sandpit.node.runtime.gvisor import Gvisor
from sandpit.node.sandboxes.local import LocalNode
from sandpit.node.sandboxes.trust import Trust, of_host
from sandpit.provision.closure import build_closure
from sandpit.server.settings import Settings
from sandpit.templates.builder import Builder

log = logging.getLogger(__name__)


def node_config(settings: Settings) -> NodeConfig:
    """The part of the settings that a node needs."""
    return NodeConfig(
        data_dir=settings.data_dir,
        run_dir=settings.run_dir,
        name=settings.node_name,
        network=settings.sandbox_network,
        runtime=settings.runtime,
        cpu_count=settings.limits.cpu_count,
        memory_mb=settings.limits.memory_mb,
        pool_size=settings.pool.size,
        pool_max=settings.pool.max_size if settings.pool.size else 0,
        pool_memory_mb=settings.pool.memory_budget_mb,
        memory_reserve_mb=settings.machine.reserved_memory_mb,
        reserved_cpus=settings.machine.reserved_cpus,
        sandbox_cpus=settings.machine.sandbox_cpus,
        sandbox_memory_mb=settings.machine.sandbox_memory_mb,
        least_cpu=settings.machine.least_cpu,
        full_seconds=settings.machine.full_seconds,
        create_seconds=settings.machine.create_seconds,
        create_queue=settings.machine.create_queue,
        disk_reserve_mb=settings.disk_reserve_mb,
        allow_ranges=settings.allow_ranges,
        sandbox_flows=settings.sandbox_flows,
        name_servers=tuple(str(address) for address in settings.name_servers),
        builds_at_once=settings.build.at_once,
        build_seconds=settings.build.max_seconds,
        layer_cache_hours=settings.build.cache_hours,
        image_mb=settings.build.image_mb,
        registry_mirrors=settings.build.registry_mirrors,
        insecure_registries=settings.build.insecure_registries,
        trust=of_host() if settings.pass_host_ca else Trust(),
    )


def find_runsc(data_dir: Path) -> Path | None:
    """The gVisor release that quickstart chose, else the one on PATH."""
    ours = data_dir / "bin/runsc"
    if ours.exists():
        return ours
    found = shutil.which("runsc")
    return Path(found) if found else None


def runtimes(config: NodeConfig) -> dict[str, Runtime]:
    """The runtimes that are installed. Raises: NodeError when there is none."""
    found: dict[str, Runtime] = {}
    if (runsc := find_runsc(config.data_dir)) is not None:
        gvisor = Gvisor(runsc, config.run_dir / "runsc", config.data_dir / "releases/gvisor")
        gvisor.prepare()
        _warn(runsc)
        found[gvisor.name] = gvisor
    if (crun := shutil.which("crun")) is not None:
        driver = Crun(Path(crun), config.run_dir / "crun")
        driver.prepare()
        found[driver.name] = driver
    if not found:
        raise NodeError("neither runsc nor crun is installed: run ./quickstart, or see `sandpit doctor`")
    return found


def _warn(runsc: Path) -> None:
    """Name the known holes of a gVisor release in the log."""
    version = programs.call(str(runsc), "--version", timeout=15).stdout.partition("\n")[0]
    if (words := holes.describe(version)) is not None:
        log.warning("gVisor, %s: %s. To get a current one: %s", version or runsc, words, holes.CURRENT)


def local_node(settings: Settings) -> LocalNode:
    """This machine as a node. Raises: NodeError, ClosureError."""
    config = node_config(settings)
    closure = build_closure(settings.data_dir / "closure", cache=settings.data_dir / "cache/uv")
    return LocalNode(config, runtimes(config), closure, Builder)
