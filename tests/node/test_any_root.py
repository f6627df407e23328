"""The agent runs in any root file system: an empty one, and one whose C library is musl."""

from __future__ import annotations

import base64
import json
import os
import shutil
import stat
import struct
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from tests.machines import cache_dir

from sandpit.node.snapshots.images import Image
from sandpit.provision.debian import PackageCache

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.machines import Box, Machine


def sandbox(machine: Machine, runtime: str, layer: str) -> Box:
    """A sandbox whose whole root file system is one layer of the cache."""
    build_id = f"{layer}-{runtime}"
    machine.add(Image(layer, build_id, (layer,), (layer,), runtime=runtime, disk_mb=256))
    return machine.create(build_id)


@pytest.fixture
def layer(request: pytest.FixtureRequest, built_images: None) -> Iterator[tuple[str, Path]]:
    """A layer of our own in the store: its key and its empty directory."""
    key = f"test{os.getpid()}{abs(hash(request.node.name)) % 10**6}"
    fs = cache_dir() / "layers" / key / "fs"
    fs.mkdir(parents=True)
    fs.chmod(0o755)
    yield key, fs
    shutil.rmtree(fs.parent)
    for root in (cache_dir() / "roots").glob("*.erofs"):
        if root.stat().st_size < 4 << 20:  # only the tests' roots are that small
            root.unlink()


def start(address: str, cmd: str, *args: str) -> list[dict[str, Any]]:
    """Run a program through the process service; its events."""
    payload = json.dumps({"process": {"cmd": cmd, "args": list(args)}, "stdin": False}).encode()
    headers = {"Content-Type": "application/connect+json", "Connect-Protocol-Version": "1"}
    body = struct.pack(">BI", 0, len(payload)) + payload
    answer = httpx.post(f"http://{address}:49983/process.Process/Start", content=body, headers=headers, timeout=20)
    events, data = [], answer.content
    while data:
        _, length = struct.unpack_from(">BI", data)
        events.append(json.loads(data[5 : 5 + length]))
        data = data[5 + length :]
    return events


def output_of(events: list[dict[str, Any]]) -> str:
    chunks = [event["event"]["data"]["stdout"] for event in events if "data" in event.get("event", {})]
    return b"".join(base64.b64decode(chunk) for chunk in chunks).decode()


def test_empty_root(machine: Machine, runtime: str, layer: tuple[str, Path]) -> None:
    box = sandbox(machine, runtime, layer[0])
    try:
        url = f"http://{box.info.address}:49983/files"
        wrote = httpx.post(url, params={"path": "/deep/er/file"}, files={"file": b"content"})
        assert wrote.json() == [{"name": "file", "type": "file", "path": "/deep/er/file"}]
        assert httpx.get(url, params={"path": "/deep/er/file"}).content == b"content"
        refused = start(box.info.address, "/bin/bash", "-l", "-c", "true")
        assert refused[-1]["error"]["code"] == "invalid_argument", "no shell: a clear error, and the agent goes on"
        assert "/bin/bash" in refused[-1]["error"]["message"]
        python = ("/.sandpit/lib/ld.so", "--library-path", "/.sandpit/lib", "/.sandpit/bin/python3", "-I", "-S", "-c")
        assert output_of(start(box.info.address, *python, "print(6 * 7)")) == "42\n"
    finally:
        box.kill()


def test_musl_root(machine: Machine, runtime: str, layer: tuple[str, Path]) -> None:
    """busybox as shell, musl as the only C library, as in Alpine."""
    key, fs = layer
    packages = PackageCache(cache_dir() / "cache/apt-image", "bookworm")
    packages.extract(["busybox-static", "musl"], fs)
    busybox = next(path for path in (fs / "bin/busybox", fs / "usr/bin/busybox") if path.exists())
    busybox.chmod(busybox.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    (fs / "bin").mkdir(exist_ok=True)
    for applet in ("sh", "cat", "id", "ls"):
        (fs / "bin" / applet).symlink_to(f"/{busybox.relative_to(fs)}")
    (fs / "etc").mkdir(exist_ok=True)
    (fs / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nguest:x:405:100:guest:/home/guest:/bin/sh\n")
    (fs / "etc/group").write_text("root:x:0:\nusers:x:100:\n")
    box = sandbox(machine, runtime, key)
    try:
        assert "musl" in box.sh("ls /lib /usr/lib; ls /lib/*/ | cat")
        assert "ld.so.preload" not in box.sh("ls /etc"), "it is glibc's"
        assert box.sh("id -u") == "0"
        assert box.sh("id -u", user="guest") == "405"
        assert box.sh("cat /etc/resolv.conf") == "nameserver 169.254.0.22"
    finally:
        box.kill()
