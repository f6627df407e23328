"""The reference for creating: `runsc restore` of the same snapshot with the same configuration, by hand."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.machines import cache_dir, snapshots_dir

from sandpit.node.config import GATEWAY_ADDRESS, INNER_ADDRESS, INNER_PREFIX
from sandpit.node.host.cgroups import Cgroup
from sandpit.node.runtime.gvisor import FLAGS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.rig import Rig

_numbers = itertools.count(1)


class Prepared:
    """A network namespace and a bundle; `restore` is all that is left to do."""

    def __init__(self, directory: Path, name: str, group: str, snapshot: Path) -> None:
        self.directory, self.name, self.group, self.snapshot = directory, name, group, snapshot

    def restore(self) -> float:
        """Milliseconds until the restored sandbox runs. Raises: CalledProcessError."""
        # As the driver does: see Gvisor._run.
        shim = 'mount -t tmpfs none /proc/sys/net && exec "$@"'
        command = [
            "unshare",
            "--mount",
            "--propagation",
            "slave",
            "sh",
            "-c",
            shim,
            "sh",
            str(cache_dir() / "bin/runsc"),
        ]
        command += ["--root", str(self.directory / "state"), *FLAGS, "restore", "--detach"]
        command += ["--bundle", str(self.directory), "--image-path", str(self.snapshot), self.name]
        with (self.directory / "log").open("wb") as log:
            began = time.perf_counter()
            subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True, start_new_session=True
            )
            return 1000 * (time.perf_counter() - began)

    def end(self) -> None:
        """Kill it and remove every trace."""
        cgroup = Cgroup(self.group)
        deadline = time.monotonic() + 10
        while (alive := cgroup.processes()) and time.monotonic() < deadline:
            for pid in alive:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)
        for _ in range(100):
            try:
                cgroup.remove()
                break
            except OSError:  # the last process is still on its way out of the kernel
                time.sleep(0.02)
        subprocess.run(["ip", "netns", "del", self.name], check=False)
        shutil.rmtree(self.directory, ignore_errors=True)


class Bare:
    """Restores of one template's snapshot, beside the server that is measured."""

    def __init__(self, rig: Rig, template: str = "base") -> None:
        sample = rig.create(template)
        record = rig.record(sample)
        bundle = rig.live.data_dir / "sandboxes" / record["container_id"] / "bundle"
        self._config = json.loads((bundle / "config.json").read_text())
        rig.kill(sample)
        [manifest] = (snapshots_dir() / record["build_id"]).glob("*/manifest.json")
        self._snapshot = manifest.parent
        self._live = rig.live

    @contextmanager
    def prepared(self, snapshot: Path | None = None) -> Iterator[Prepared]:
        """Everything for one restore, of the template's snapshot if no other is given; ended and removed afterwards."""
        number = next(_numbers)
        name = f"{self._live.name}b{number}"
        directory = self._live.data_dir.parent / "bare" / name
        (directory / "disk").mkdir(parents=True)
        (directory / "state").mkdir()
        prepared = Prepared(directory, name, f"/{self._live.name}/b{number}", snapshot or self._snapshot)
        _network(name)
        (directory / "config.json").write_text(json.dumps(self._configuration(prepared)))
        try:
            yield prepared
        finally:
            prepared.end()

    def restore(self, snapshot: Path | None = None) -> float:
        """Milliseconds of one restore, cleaned up behind."""
        with self.prepared(snapshot) as one:
            return one.restore()

    def _configuration(self, prepared: Prepared) -> dict[str, Any]:
        config: dict[str, Any] = json.loads(json.dumps(self._config))
        old = config["annotations"]["dev.gvisor.spec.mount.disk.source"]
        new = str(prepared.directory / "disk")
        config["annotations"]["dev.gvisor.spec.mount.disk.source"] = new
        for mount in config["mounts"]:
            if mount["source"] == old:
                mount["source"] = new
        for namespace in config["linux"]["namespaces"]:
            if namespace["type"] == "network":
                namespace["path"] = f"/run/netns/{prepared.name}"
        config["linux"]["cgroupsPath"] = prepared.group
        return config


def _network(name: str) -> None:
    """A namespace with a link and the address that every sandbox has."""
    outside = (f"netns add {name}", f"link add {name} type veth peer name eth0 netns {name}", f"link set {name} up")
    inside = (
        f"addr add {INNER_ADDRESS}/{INNER_PREFIX} dev eth0",
        "link set eth0 up",
        "link set lo up",
        f"route add default via {GATEWAY_ADDRESS}",
    )
    subprocess.run(["ip", "-batch", "-"], input="\n".join(outside) + "\n", text=True, check=True)
    subprocess.run(["ip", "-n", name, "-batch", "-"], input="\n".join(inside) + "\n", text=True, check=True)
