"""Base images out of a registry: names, credentials, mirrors, kinds of images, and registries that mean harm."""

from __future__ import annotations

import shutil
import stat
import subprocess
import tarfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from tests import leaks
from tests.machines import RUNTIMES, Box, Machine, cache_dir, image, own_layers
from tests.node.outside import CLOSED, PUBLIC, Outside
from tests.templates.registry import PASSWORD, Entry, Registry, directory, layer, tree

from sandpit.contract.builder import BuildFailed, BuildSpec, BuildStep
from sandpit.contract.builder import Registry as Login
from sandpit.contract.node import TemplateImage
from sandpit.node.guests.agent import AgentUnavailable
from sandpit.provision.debian import PackageCache
from sandpit.templates.registry.manifests import ImageRefused, contents
from sandpit.templates.registry.references import parse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = pytest.mark.timeout(180)
LOGIN = Login("someone", PASSWORD)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    registry = Registry(tmp_path_factory.mktemp("registry"))
    yield registry
    registry.close()


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry elsewhere that wants credentials."""
    with Outside() as outside:
        registry = Registry(tmp_path_factory.mktemp("private"), "someone", address=PUBLIC, within=outside.name)
        yield registry
        registry.close()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A layer with busybox as its shell and musl as its only C library: no Python, no bash, no user, no package manager."""
    fs = tmp_path_factory.mktemp("small")
    PackageCache(cache_dir() / "cache/apt-image", "bookworm").extract(["busybox-static", "musl"], fs)
    busybox = next(path for path in (fs / "bin/busybox", fs / "usr/bin/busybox") if path.exists())
    busybox.chmod(0o755)
    (fs / "bin").mkdir(exist_ok=True)
    for applet in ("sh", "cat", "ls", "id", "rm", "mkdir", "touch", "stat", "readlink", "sleep", "wc", "grep", "chmod"):
        (fs / "bin" / applet).symlink_to(f"/{busybox.relative_to(fs)}")
    (fs / "etc").mkdir(exist_ok=True)
    (fs / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (fs / "etc/group").write_text("root:x:0:\n")
    shutil.rmtree(fs / "usr/share", ignore_errors=True)
    return tree(fs)


@pytest.fixture(scope="module")
def machine(built_images: None, registry: Registry, private: Registry) -> Iterator[Machine]:
    """A node whose operator has a mirror of Docker Hub and of one other registry on its loopback."""
    mirrors = {"docker.io": registry.host, "registry.example": f"{registry.host}/example"}
    machine = Machine.make(
        [image("base")],
        registry_mirrors=mirrors,
        image_mb=64,
        insecure_registries=(registry.host, *(f"{address}:{private.port}" for address in (PUBLIC, *CLOSED))),
    )
    own_layers(machine.data_dir)
    leaks.kept.add(machine.name)
    machine.start()
    yield machine
    machine.stop()
    machine.remove()


class Site:
    """Builds on the machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.count = 0
        self.lines: list[str] = []

    async def _files(self, name: str) -> AsyncIterator[bytes]:
        raise KeyError(name)
        yield b""

    def build(
        self, name: str, *commands: str, tenant: str = "one", runtime: str = "gvisor", **options: Any
    ) -> TemplateImage:
        self.count += 1
        self.lines.clear()
        steps = tuple(BuildStep("RUN", (command, "root")) for command in commands)
        spec = BuildSpec(f"t{self.count}", f"b{self.count}-{tenant}", tenant, "it", image=name, steps=steps, **options)

        def report(message: str, level: str = "info", step: str | None = None) -> None:
            self.lines.append(message)

        return self.machine.wait(self.machine.node.build(spec, self._files, report))

    def failed(self, name: str, *commands: str, **options: Any) -> str:
        with pytest.raises(BuildFailed) as caught:
            self.build(name, *commands, **options)
        return caught.value.message

    def fetched(self) -> bool:
        return any("fetching" in line for line in self.lines)

    def box(self, built: TemplateImage) -> Box:
        return self.machine.create(built.build_id)


@pytest.fixture
def site(machine: Machine) -> Site:
    return Site(machine)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("ubuntu", "docker.io/library/ubuntu:latest"),
        ("ubuntu:22.04", "docker.io/library/ubuntu:22.04"),
        ("owner/name:v1.2", "docker.io/owner/name:v1.2"),
        ("docker.io/python:3", "docker.io/library/python:3"),
        ("ghcr.io/a/b/c", "ghcr.io/a/b/c:latest"),
        ("127.0.0.1:5000/x", "127.0.0.1:5000/x:latest"),
        ("localhost/x:y", "localhost/x:y"),
        (f"x@sha256:{'0' * 64}", f"docker.io/library/x@sha256:{'0' * 64}"),
        ("UPPER", None), ("a b", None), ("../etc", None), ("x:", None), ("-x", None), ("x/../y", None), ("a//b", None),
        ("--option", None), ("dir:/etc", None), ("docker://x", None), ("x@sha256:00", None), ("", None), ("a" * 600, None),
        ("x:../../y", None), ("ex ample.com/x", None), ("host:99999999/x", None),
    ],
)  # fmt: skip
def test_names(text: str, meant: str | None) -> None:
    found = parse(text)
    assert (str(found) if found else None) == meant


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_image_of_many_layers(site: Site, registry: Registry, small: bytes, runtime: str) -> None:
    second = layer(
        directory("srv", uid=1234, gid=4321, mode=0o2750),
        Entry("srv/gone", b"x"), Entry("srv/dir/inner", b"x"), Entry("srv/program", b"#!/bin/sh\n", mode=0o6755, uid=42),
        Entry("srv/large", uid=100000, gid=100000),
        Entry("srv/again", type=tarfile.LNKTYPE, link="srv/program"), Entry("srv/out", type=tarfile.SYMTYPE, link="../../../etc"),
        Entry("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nodd:x:1234:4321::/srv:/bin/sh\nlarge:x:100000:100000::/:/bin/sh\n"),
    )  # fmt: skip
    third = layer(Entry("srv/.wh.gone"), Entry("srv/dir/.wh..wh..opq"), Entry("srv/dir/new", b"new"))
    registry.push("library/many", small, second, third, tag="1", env=["COLOUR=blue", "PATH=/srv:/bin:/usr/bin"])
    built = site.build("many:1", f"ls /srv/dir > /seen; echo $COLOUR >> /seen; # {runtime}")
    assert site.fetched() or runtime != RUNTIMES[0]
    site.machine.add(replace(_image(site, built), build_id=f"many-{runtime}", runtime=runtime))
    box = site.machine.create(f"many-{runtime}")
    try:
        assert box.sh("cat /seen").split() == ["new", "blue"]
        assert box.sh("ls /srv").split() == ["again", "dir", "large", "out", "program"]
        assert box.sh("stat -c '%a %u %g' /srv; stat -c '%a %u %h' /srv/program; readlink /srv/out").split() == [
            "2750", "1234", "4321", "6755", "42", "2", "../../../etc",
        ]  # fmt: skip
        assert box.sh("id -u; id -un", user="odd").split() == ["1234", "odd"]
        assert box.sh("stat -c %u /srv/large") == ("100000" if runtime == "gvisor" else "65534"), "crun: nobody's"
        if runtime == "gvisor":
            assert box.sh("id -u", user="large") == "100000"
        else:
            with pytest.raises(AgentUnavailable, match="100000, its own or of a group, does not exist"):
                box.sh("true", user="large")
        assert box.sh("id -un; cd; pwd", user="user").split() == ["user", "/home/user"]
        assert box.sh("echo $PATH", user="user") == "/srv:/bin:/usr/bin"
    finally:
        box.kill()


def _image(site: Site, built: TemplateImage) -> Any:
    from sandpit.node.config import NodeConfig
    from sandpit.node.snapshots import images

    return images.load(NodeConfig(site.machine.data_dir, site.machine.run_dir, site.machine.name), built.build_id)


def test_zstd_and_more_layers_than_a_mount_holds(site: Site, registry: Registry, small: bytes) -> None:
    more = [layer(Entry(f"layers/{number}", str(number).encode())) for number in range(70)]
    registry.push("library/deep", small, *more, layer(Entry("layers/.wh.7")), zstd=True)
    built = site.build("deep", "ls /layers | wc -l > /count")
    box = site.box(built)
    try:
        assert box.sh("cat /count /layers/0 /layers/69").split() == ["69", "069"]
    finally:
        box.kill()


def test_a_name_of_another_registry_by_its_mirror(site: Site, registry: Registry, small: bytes) -> None:
    registry.push("example/team/thing", small, tag="x")
    site.build("registry.example/team/thing:x")
    assert "docker.io/library/nothing" in site.failed("nothing:9")


def test_what_moves_is_found_again(site: Site, registry: Registry, small: bytes) -> None:
    first = registry.push("library/moving", small, tag="a")
    site.build("moving:a")
    site.build("moving:a")
    assert not site.fetched()
    registry.push("library/moving", small, layer(Entry("new", b"")), tag="a")
    site.build("moving:a", "ls /new")
    assert site.fetched()
    site.build(f"moving@{first}")
    assert not site.fetched()


def test_a_team_has_downloaded_what_it_uses(site: Site, registry: Registry, small: bytes) -> None:
    registry.push("library/shared", small, layer(Entry("secret", b"")), tag="1")
    built = site.build("shared:1", "echo $RANDOM > /mine", tenant="one")
    again = site.build("shared:1", "echo $RANDOM > /mine", tenant="one")
    assert any(line.startswith("CACHED") for line in site.lines)
    other = site.build("shared:1", "echo $RANDOM > /mine", tenant="two")
    assert site.fetched(), "a digest alone gives nothing"
    assert not any(line.startswith("CACHED") for line in site.lines), "what steps make is each team's own"
    layers = [_image(site, one).layers for one in (built, again, other)]
    assert layers[0] == layers[1] != layers[2]
    assert layers[0][:2] == layers[2][:2], "but one on disk"


# What strangers name


def test_hosts_own_and_private_addresses_are_out_of_reach(
    site: Site, registry: Registry, private: Registry, small: bytes
) -> None:
    """The registry of the loopback is the operator's mirror. Named by a stranger, it is not there, nor is anything else of the host."""
    registry.push("library/inner", small)
    gateway = f"169.254.0.22:{registry.port}"
    for host in (registry.host, f"localhost:{registry.port}", gateway, "10.0.0.1:5000", "169.254.169.254"):
        assert "cannot be fetched" in site.failed(f"{host}/library/inner"), host
    private.push("inner", small)
    for address in CLOSED:
        assert "cannot be fetched" in site.failed(f"{address}:{private.port}/inner", registry=LOGIN), address


def test_credentials(site: Site, private: Registry, small: bytes) -> None:
    private.push("team/thing", small, tag="2")
    name = f"{private.host}/team/thing:2"
    assert "auth" in site.failed(name).lower()
    assert "auth" in site.failed(name, registry=Login("someone", "wrong")).lower()
    site.build(name, registry=LOGIN)
    kept = subprocess.run(
        ["grep", "-rlF", PASSWORD, str(site.machine.data_dir / "build")], capture_output=True, text=True, check=False
    )
    assert kept.stdout == ""
    assert "auth" in site.failed(name).lower(), "what was fetched with credentials is not there without"


KIND = "application/vnd.oci.image.layer.v1.tar"


@pytest.mark.parametrize(
    "layers",
    [
        [{"mediaType": KIND, "size": 1, "digest": "sha256:x", "urls": ["http://127.0.0.1/x"]}],
        [{"mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar", "size": 1, "digest": "sha256:x"}],
        [{"mediaType": "application/x-anything", "size": 1, "digest": "sha256:x"}],
        [{"mediaType": KIND, "size": -1, "digest": "sha256:x"}],
        [{"mediaType": KIND, "size": 1, "digest": "sha256:x"}] * 128,
        [{"mediaType": KIND}], [None], "text", [],
    ],
)  # fmt: skip
def test_manifests_that_are_none(layers: Any) -> None:
    """Layers that would be fetched from elsewhere are refused before anything is fetched."""
    reference = parse("ubuntu")
    assert reference is not None
    with pytest.raises(ImageRefused):
        contents({"config": {"digest": "sha256:x"}, "layers": layers}, reference)


def test_images_that_are_none(site: Site, registry: Registry, small: bytes) -> None:
    assert "is no name" in site.failed("no:such:name")
    registry.push("library/device", small, layer(Entry("sda", type=tarfile.BLKTYPE, device=(8, 0))))
    assert "device" in site.failed("device")
    registry.push("library/large", small, layer(Entry("zeros", bytes(80 << 20))))
    assert "64 MiB" in site.failed("large")
    assert [path.name for path in (site.machine.data_dir / "build/tmp").iterdir()] == []


def test_no_shell(site: Site, registry: Registry) -> None:
    registry.push("library/empty", layer(Entry("file", b"content")))
    assert "no shell" in site.failed("empty", "true")
    built = site.build("empty")
    box = site.box(built)
    box.kill()


def test_setuid_programs_of_images_cannot_be_reached_from_outside(machine: Machine) -> None:
    assert stat.S_IMODE((machine.data_dir / "layers").stat().st_mode) & 0o044 == 0
