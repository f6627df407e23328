"""Fetching from registries, with skopeo.

A stranger names the registry, and what it answers can send the client anywhere: redirects, token servers. So skopeo runs where a sandbox
would: in a network slot's namespace, under the packet rules and the name server of sandboxes, as a user without rights. It reaches what the
stranger's own sandbox reaches: neither this host nor private networks. Only the operator's own mirrors are reached from the host.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandpit.contract.node import NetworkPolicy
from sandpit.lib.private import passable
from sandpit.node.config import GATEWAY_ADDRESS
from sandpit.node.host.commands import CommandFailed, run, tied
from sandpit.templates.registry.manifests import (
    MANIFEST_BYTES,
    Blob,
    ImageRefused,
    architecture,
    contents,
    for_this_machine,
    is_index,
    parse,
    read_config,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandpit.contract.builder import Registry
    from sandpit.node.network.firewall import Firewall
    from sandpit.node.network.slots import Slots
    from sandpit.templates.registry.references import Reference

_NOBODY = 0x0FFF0000
"""No user of this machine, nor of a sandbox: what it downloads, and the password that it does so with, are not for `nobody` either."""
_MANIFEST_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Manifest:
    """An image for this machine: where it is, its layers (lowest first), the digest of its configuration."""

    reference: Reference
    digest: str
    config: str
    layers: tuple[Blob, ...]
    confined: bool


@dataclass(frozen=True, slots=True)
class Fetched:
    """A downloaded image: the configuration's `config` object, and the files of its layers."""

    config: Mapping[str, Any]
    layers: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Registries:
    """What the operator says about registries."""

    mirrors: Mapping[str, str] = field(default_factory=dict)
    """By registry (`docker.io`): `host[:port][/path]` to ask first. Reached from the host, without a stranger's credentials."""
    insecure: tuple[str, ...] = ()
    """Hosts that speak plain HTTP, or TLS with a certificate that nobody signed."""
    max_bytes: int = 20 << 30
    """Of all compressed layers together."""
    seconds: float = 1800.0


class Puller:
    """Fetches images for builds."""

    def __init__(self, registries: Registries, slots: Slots, firewall: Firewall, scratch: Path) -> None:
        """`scratch` is a directory on the layers' file system; downloads are in it for a moment."""
        self._registries = registries
        self._slots = slots
        self._firewall = firewall
        self._scratch = scratch

    async def find(self, reference: Reference, registry: Registry) -> Manifest:
        """What an image's name means now, for this machine. Raises: ImageRefused."""
        mirror = reference.mirrored(self._registries.mirrors)
        if mirror is not None:
            try:
                return await self._find(mirror, None, confined=False)
            except ImageRefused as error:
                missing = error
            try:
                return await self._find(reference, registry, confined=True)
            except ImageRefused as error:
                raise ImageRefused(f"{error}; the mirror {mirror.host}: {missing}") from error
        return await self._find(reference, registry, confined=True)

    async def _find(self, reference: Reference, registry: Registry | None, *, confined: bool) -> Manifest:
        async with self._skopeo(reference, registry, confined=confined) as (call, _):
            raw = await call("inspect", "--raw", f"docker://{reference}")
            manifest = parse(raw)
            if is_index(manifest):
                reference = reference.at(for_this_machine(manifest, reference))
                raw = await call("inspect", "--raw", f"docker://{reference}")
                manifest = parse(raw)
        digest = f"sha256:{hashlib.sha256(raw.encode()).hexdigest()}"
        if reference.digest not in (None, digest):
            raise ImageRefused(f"{reference} is not what its digest says")
        return Manifest(reference.at(digest), digest, *contents(manifest, reference), confined)

    @asynccontextmanager
    async def fetch(self, manifest: Manifest, registry: Registry) -> AsyncIterator[Fetched]:
        """Download an image; its files are gone when the block ends. Digests are verified. Raises: ImageRefused, OSError."""
        total = sum(blob.size for blob in manifest.layers)
        if total > self._registries.max_bytes:
            raise ImageRefused(
                f"{manifest.reference} has {total >> 20} MiB of layers; {self._registries.max_bytes >> 20} MiB are allowed"
            )
        access = registry if manifest.confined else None
        async with self._skopeo(manifest.reference, access, confined=manifest.confined) as (call, folder):
            image = folder / "image"
            await self._watched(call("copy", f"docker://{manifest.reference}", f"dir:{image}"), folder)
            files = [_blob(image, blob.digest) for blob in manifest.layers]
            config = _blob(image, manifest.config)
            for digest, path in zip(
                [manifest.config, *(b.digest for b in manifest.layers)], [config, *files], strict=True
            ):
                await asyncio.to_thread(_verify, path, digest)
            yield Fetched(read_config(config), tuple(files))

    async def _watched(self, download: Any, folder: Path) -> None:
        """Registries are not believed about sizes."""
        task = asyncio.ensure_future(download)
        try:
            async with asyncio.timeout(self._registries.seconds):
                while not task.done():
                    await asyncio.wait({task}, timeout=0.5)
                    if await asyncio.to_thread(_size, folder) > self._registries.max_bytes + MANIFEST_BYTES:
                        raise ImageRefused(f"the registry sends more than {self._registries.max_bytes >> 20} MiB")
            await task
        except TimeoutError:
            raise ImageRefused(f"the download did not end within {self._registries.seconds:g} s") from None
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    @asynccontextmanager
    async def _skopeo(self, reference: Reference, registry: Registry | None, *, confined: bool) -> AsyncIterator[Any]:
        """A function that runs skopeo, and a directory that it may write to."""
        passable(self._scratch)  # for its user
        with tempfile.TemporaryDirectory(prefix="pull.", dir=self._scratch) as name:
            folder = Path(name)
            _prepare(folder, reference, registry)
            shutil.chown(folder, _NOBODY, _NOBODY)
            if not confined:
                yield lambda *arguments: self._call(folder, reference, None, arguments), folder
                return
            slot = await self._slots.take()
            try:
                await self._firewall.set_policy(slot.link, slot.outer, NetworkPolicy())
                yield lambda *arguments: self._call(folder, reference, slot.namespace_path, arguments), folder
            finally:
                await asyncio.shield(self._slots.give_back(slot))

    async def _call(self, folder: Path, reference: Reference, namespace: str | None, arguments: tuple[str, ...]) -> str:
        """Run skopeo. Raises: ImageRefused."""
        command, *rest = arguments
        insecure = reference.host in self._registries.insecure
        verify = {"inspect": "--tls-verify", "copy": "--src-tls-verify"}[command]
        options = ["--authfile", str(folder / "auth.json"), f"{verify}={'false' if insecure else 'true'}"]
        skopeo = [
            "skopeo", "--insecure-policy", f"--override-arch={architecture()}", "--override-os=linux",
            f"--registries.d={folder / 'none'}", f"--tmpdir={folder}", command, *options, *rest,
        ]  # fmt: skip
        environment = [
            f"HOME={folder}", f"TMPDIR={folder}", f"XDG_RUNTIME_DIR={folder}", "PATH=/usr/local/bin:/usr/bin:/bin",
            f"CONTAINERS_REGISTRIES_CONF={folder / 'registries.conf'}", "GODEBUG=netdns=go",
        ]  # fmt: skip
        humble = [
            "prlimit", f"--fsize={self._registries.max_bytes}", "--core=0",
            "setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups", "--no-new-privs",
            "--bounding-set=-all", "--inh-caps=-all", "--pdeathsig", "KILL", "env", "-i", *environment, *skopeo,
        ]  # fmt: skip
        script = 'exec "$@"'
        if namespace is not None:
            resolver = folder / "resolv.conf"
            script = f'mount --bind "{resolver}" /etc/resolv.conf && exec nsenter --net="{namespace}" "$@"'
        try:
            seconds = _MANIFEST_SECONDS if command == "inspect" else self._registries.seconds + 5
            return await run(*tied(script, *humble), timeout=seconds)
        except CommandFailed as error:
            raise ImageRefused(f"{reference} cannot be fetched: {_explain(error)}") from None


def _prepare(folder: Path, reference: Reference, registry: Registry | None) -> None:
    """Files that skopeo reads. Only its user may look into the folder."""
    (folder / "none").mkdir()
    (folder / "registries.conf").write_text("")
    (folder / "resolv.conf").write_text(f"nameserver {GATEWAY_ADDRESS}\n")
    auths: dict[str, Any] = {}
    if registry is not None and (registry.username or registry.password):
        secret = base64.b64encode(f"{registry.username}:{registry.password}".encode()).decode()
        auths[reference.host] = {"auth": secret}
    (folder / "auth.json").write_text(json.dumps({"auths": auths}))
    for path in folder.iterdir():
        shutil.chown(path, _NOBODY, _NOBODY)
        path.chmod(0o700 if path.is_dir() else 0o600)


def _blob(image: Path, digest: str) -> Path:
    algorithm, _, text = digest.partition(":")
    if algorithm != "sha256" or len(text) != 64 or not text.isalnum():
        raise ImageRefused(f"the digest {digest[:100]!r} is of no known kind")
    return image / text


def _verify(path: Path, digest: str) -> None:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise ImageRefused(f"the registry did not send {digest}") from None
    if f"sha256:{found}" != digest:
        raise ImageRefused(f"the registry sent something else than {digest}")


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_size
        except FileNotFoundError:
            continue
    return total


def _explain(error: CommandFailed) -> str:
    """skopeo's last line, without its own decoration."""
    if error.status is None:
        return "the registry did not answer in time"
    lines = error.output.strip().splitlines() or ["no reason given"]
    text = lines[-1]
    if 'msg="' in text:
        text = text.partition('msg="')[2].rstrip('"').replace('\\"', '"')
    return text[-500:]
