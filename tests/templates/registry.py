"""A real registry on this machine's loopback (Debian's docker-registry), and images made layer by layer."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import socket
import subprocess
import tarfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from tests import leaks
from tests.machines import cache_dir

from sandpit.provision.debian import PackageCache

PASSWORD = "a password"
HASHED = "$2b$04$dlt9dBT8IHNzjYJI6ynjGengfmb/aYwwWtOk071lhdVmYABmI9lXm"
_OCI = "application/vnd.oci.image"


@dataclass
class Entry:
    """One entry of a layer."""

    name: str
    content: bytes = b""
    mode: int = 0o644
    type: bytes = tarfile.REGTYPE
    link: str = ""
    uid: int = 0
    gid: int = 0
    pax: dict[str, str] = field(default_factory=dict)
    device: tuple[int, int] = (0, 0)


def directory(name: str, mode: int = 0o755, **options: Any) -> Entry:
    return Entry(name, mode=mode, type=tarfile.DIRTYPE, **options)


def layer(*entries: Entry) -> bytes:
    """A layer's tar, not compressed."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for entry in entries:
            info = tarfile.TarInfo(entry.name)
            info.mode, info.type, info.linkname, info.size = entry.mode, entry.type, entry.link, len(entry.content)
            info.uid, info.gid, info.pax_headers = entry.uid, entry.gid, entry.pax
            info.devmajor, info.devminor = entry.device
            tar.addfile(info, io.BytesIO(entry.content))
    return stream.getvalue()


def tree(folder: Path) -> bytes:
    """A layer of a directory, with owners as they are."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(folder.rglob("*")):
            tar.add(path, str(path.relative_to(folder)), recursive=False)
    return stream.getvalue()


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class Registry:
    """Started on a free port of the loopback; with a user it asks for credentials, and the password is PASSWORD."""

    def __init__(self, folder: Path, user: str | None = None, *, address: str = "127.0.0.1", within: str = "") -> None:
        """`within` names a network namespace that has the address."""
        credentials = (user, PASSWORD) if user is not None else None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))  # free here, so surely in a namespace of its own
            self.port = probe.getsockname()[1]
        self.host = f"{address}:{self.port}"
        config: dict[str, Any] = {
            "version": 0.1,
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": str(folder / "blobs")}},
            "http": {"addr": f"{'127.0.0.1' if not within else ''}:{self.port}"},
        }
        if credentials is not None:
            (folder / "htpasswd").write_text(f"{credentials[0]}:{HASHED}\n")
            config["auth"] = {"htpasswd": {"realm": "here", "path": str(folder / "htpasswd")}}
        (folder / "config.yml").write_text(json.dumps(config))
        entering = ["ip", "netns", "exec", within] if within else []
        self._process = subprocess.Popen(
            [*entering, str(program()), "serve", str(folder / "config.yml")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        leaks.kept_processes.add(self._process.pid)
        self._http = httpx.Client(
            base_url=f"http://{self.host}",
            trust_env=False,
            auth=credentials,
            limits=httpx.Limits(max_keepalive_connections=0),
        )
        self._until_up()

    def _until_up(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            assert self._process.poll() is None, "the registry ended"
            try:
                assert self._http.get("/v2/").status_code == 200
            except httpx.TransportError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            else:
                return

    def close(self) -> None:
        self._http.close()
        self._process.terminate()
        self._process.wait(30)
        leaks.kept_processes.discard(self._process.pid)

    def blob(self, name: str, content: bytes) -> str:
        """Store a blob; its digest."""
        begun = self._http.post(f"/v2/{name}/blobs/uploads/")
        location = begun.headers["location"]
        done = self._http.put(f"{location}&digest={digest(content)}", content=content)
        assert done.status_code == 201, done.text
        return digest(content)

    def push(
        self, name: str, *layers: bytes, tag: str = "latest", env: list[str] | None = None, zstd: bool = False
    ) -> str:
        """Store an image; its manifest's digest."""
        described = []
        for content in layers:
            packed = _zstd(content) if zstd else gzip.compress(content, 1)
            kind = f"{_OCI}.layer.v1.tar+{'zstd' if zstd else 'gzip'}"
            described.append({"mediaType": kind, "size": len(packed), "digest": self.blob(name, packed)})
        config = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {"Env": env or []},
                "rootfs": {"type": "layers", "diff_ids": [digest(content) for content in layers]},
            }
        ).encode()
        about = {"mediaType": f"{_OCI}.config.v1+json", "size": len(config), "digest": self.blob(name, config)}
        return self.manifest(name, {"config": about, "layers": described}, tag)

    def manifest(self, name: str, fields: dict[str, Any], tag: str) -> str:
        kind = f"{_OCI}.manifest.v1+json"
        text = json.dumps({"schemaVersion": 2, "mediaType": kind, **fields}).encode()
        done = self._http.put(f"/v2/{name}/manifests/{tag}", content=text, headers={"content-type": kind})
        assert done.status_code == 201, done.text
        return digest(text)


def _zstd(content: bytes) -> bytes:
    return subprocess.run(["zstd", "-qc"], input=content, capture_output=True, check=True).stdout


def program() -> Path:
    """Debian's registry, unpacked into the cache once."""
    folder = cache_dir() / "cache/docker-registry"
    if not (folder / "usr/bin/docker-registry").exists():
        fresh = folder.with_suffix(".new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        PackageCache(cache_dir() / "cache/apt-image", "bookworm").extract(["docker-registry"], fresh)
        fresh.rename(folder)
    return folder / "usr/bin/docker-registry"
