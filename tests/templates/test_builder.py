"""Steps, layers and their limits, on both runtimes, below the API."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from tests import leaks
from tests.machines import RUNTIMES, Box, Machine, image, own_layers
from tests.node.outside import CLOSED, PUBLIC, Outside
from tests.templates.registry import Entry, layer

from sandpit.contract.builder import BuildFailed, BuildSpec, BuildStep
from sandpit.contract.node import TemplateImage
from sandpit.node.snapshots import images

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from concurrent.futures import Future

    from sandpit.node.snapshots.images import Image

pytestmark = pytest.mark.timeout(180)
HASH = "f" * 64


class Site:
    """Builds on a machine, and the sandboxes of what was built."""

    def __init__(self, machine: Machine, runtime: str) -> None:
        self.machine = machine
        self.runtime = runtime
        self.tenant = f"team-{runtime}"
        self.lines: list[str] = []
        self.archive = b""
        self._boxes: list[Box] = []
        self._count = 0

    async def _files(self, name: str) -> AsyncIterator[bytes]:
        if name != HASH or not self.archive:
            raise KeyError(name)
        yield self.archive

    def spec(self, *steps: BuildStep | str, **options: Any) -> BuildSpec:
        """Plain strings are commands that root runs."""
        self._count += 1
        taken = tuple(BuildStep("RUN", (step, "root")) if isinstance(step, str) else step for step in steps)
        base = options.pop("base_build_id", f"base-{self.runtime}")
        made = BuildSpec(
            "template", f"{self.runtime}-{self._count}", self.tenant, "it", base_build_id=base, steps=taken
        )
        return replace(made, **{"memory_mb": 512, "cpu_count": 1, **options})

    def _report(self, message: str, level: str = "info", step: str | None = None) -> None:
        self.lines.append(message)

    def start(self, spec: BuildSpec) -> Future[TemplateImage]:
        import asyncio

        self.lines.clear()
        return asyncio.run_coroutine_threadsafe(
            self.machine.node.build(spec, self._files, self._report), self.machine._loop
        )

    def build(self, *steps: BuildStep | str, **options: Any) -> Image:
        made = self.start(self.spec(*steps, **options)).result(120)
        return images.load(self.machine.node._config, made.build_id)

    def failed(self, *steps: BuildStep | str, **options: Any) -> BuildFailed:
        with pytest.raises(BuildFailed) as caught:
            self.start(self.spec(*steps, **options)).result(120)
        return caught.value

    def box(self, built: Image) -> Box:
        self._boxes.append(self.machine.create(built.build_id))
        return self._boxes[-1]

    def used(self) -> int:
        """Bytes on disk that count for the tenant."""
        return self.machine.wait(self.machine.node.build_bytes(self.tenant))

    def cached(self) -> int:
        return sum(line.startswith("CACHED") for line in self.lines)

    def close(self) -> None:
        for box in self._boxes:
            if box.id in self.machine.node._sandboxes:
                box.kill()


def start_machine(**options: Any) -> Machine:
    machine = Machine.make(
        [image("base", build_id=f"base-{runtime}", runtime=runtime) for runtime in RUNTIMES], **options
    )
    own_layers(machine.data_dir)
    leaks.kept.add(machine.name)
    machine.start()
    return machine


@pytest.fixture(scope="module")
def machine(built_images: None) -> Iterator[Machine]:
    machine = start_machine()
    yield machine
    machine.stop()
    machine.remove()


@pytest.fixture(params=RUNTIMES)
def site(machine: Machine, request: pytest.FixtureRequest) -> Iterator[Site]:
    site = Site(machine, str(request.param))
    yield site
    site.close()


def copy(*args: str, kind: str = "COPY") -> BuildStep:
    return BuildStep(kind, args, files_hash=HASH)


def test_what_steps_write_is_what_sandboxes_see(site: Site) -> None:
    """Also what they remove, replace and link, over a file system that has it below, and over each other's layers."""
    first = (
        "rm /usr/bin/less; rm -r /usr/share/perl5; mkdir /usr/share/perl5; echo new > /usr/share/perl5/file;"
        "mkdir -p /opt/a/b /opt/gone; echo 1 > /opt/a/b/c; ln /opt/a/b/c /opt/a/hard; ln -s c /opt/a/b/soft;"
        "echo x > /opt/gone/x; chown 7:8 /opt/a/hard; chmod 4750 /opt/a/hard; truncate -s 3M /opt/sparse; mkfifo /opt/pipe"
    )
    second = (
        "rm -r /opt/a/b; mkdir /opt/a/b; echo 2 > /opt/a/b/d; rm -r /opt/gone; echo file > /opt/gone; rm -r /usr/share/perl5;"
        "rm /opt/pipe; echo '#' >> /etc/profile; sleep 1000 & echo $!; touch /etc/kept"
    )
    site.build(first, second)
    built = site.build(first, second, "pgrep -x sleep && exit 1; rm /etc/kept; true")
    assert site.cached() == 2
    box = site.box(built)
    assert box.sh("cd /opt; ls a/b; cat gone; stat -c '%a %u %g' a/hard; stat -c %s sparse").split() == [
        "d", "file", "4750", "7", "8", "3145728",
    ]  # fmt: skip
    assert box.run("ls /usr/bin/less")[0] != 0
    assert box.run("ls /usr/share/perl5")[0] != 0
    assert box.run("ls /etc/kept")[0] != 0
    assert box.sh("tail -c 2 /etc/profile") == "#"
    assert box.sh("sudo -n id -u", user="user") == "0"
    assert box.run("ls /.disk /.restore")[0] != 0
    assert box.sh("cat /etc/hostname") == box.id, "a build's own identity is in no layer"


def test_environment_and_directories(site: Site) -> None:
    def env(*pairs: str) -> BuildStep:
        return BuildStep("ENV", pairs)

    built = site.build(
        env("A", "one", "B", 'two "words" $(id) `id` \\n'), env("C", "$A-${A}-$NOTHING-${NOTHING:-else}", "A", "three"),
        env("PATH", "$PATH:/opt/bin"), BuildStep("RUN", ("echo $A > ~/a; export A=gone; cd /tmp",)), BuildStep("WORKDIR", ("/srv/x",)),
        BuildStep("WORKDIR", ("y",)), BuildStep("USER", ("fresh",)), BuildStep("RUN", ("pwd > /tmp/where; id -un >> /tmp/where",)),
    )  # fmt: skip
    assert (built.workdir, built.user) == ("/srv/x/y", "fresh")
    box = site.box(built)
    assert box.sh("cat /home/user/a /tmp/where").split() == ["three", "/srv/x/y", "fresh"]
    assert box.sh('printf "%s\\n" "$A" "$B" "$C"; pwd; id -un', user="fresh").splitlines() == [
        "three", 'two "words" $(id) `id` \\n', "one-one--else", "/srv/x/y", "fresh",
    ]  # fmt: skip
    assert built.env["PATH"].endswith("/sbin:/bin:/opt/bin")


def test_copies(site: Site) -> None:
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("unpacked"))
    site.archive = layer(
        Entry("app/a.txt", b"a", mode=0o600), Entry("app/sub/b.txt", b"b"), Entry("app/link", type=tarfile.SYMTYPE, link="a.txt"),
        Entry("app/away", type=tarfile.SYMTYPE, link="/etc/hostname"), Entry("single", b"s"), Entry("x.tgz", inner.getvalue()),
        Entry("null", type=tarfile.CHRTYPE, device=(1, 3)),
    )  # fmt: skip
    built = site.build(
        "mkdir -p /dest/sub; echo old > /dest/sub/old; ln -s /dest /way", copy("app", "/dest", "", ""), copy("single", "/new/name"),
        copy("single", "/new/dir/"), copy("app/*.txt", "globbed"), copy("single", "/way", "7:8", "0640"), copy("x.tgz", "/kept"),
        copy("x.tgz", "/added", kind="ADD"), copy(".", "/all"),
    )  # fmt: skip
    box = site.box(built)
    assert box.sh("cd /dest; ls; ls sub; cat a.txt; readlink link away; stat -c '%a %U' a.txt single").split() == [
        "a.txt", "away", "link", "single", "sub", "b.txt", "old", "aa.txt", "/etc/hostname", "600", "user", "640", "lp",
    ]  # fmt: skip
    assert box.sh("cat /new/name /new/dir/single; echo; ls /added; file -b /kept; ls /all").split()[:3] == [
        "ss",
        "unpacked",
        "gzip",
    ]
    assert box.sh("cat /home/user/globbed; echo; ls -A /all").split() == ["a", "app", "single", "x.tgz"]
    assert "is not in the uploaded files" in site.failed(copy("nothing", "/x")).message
    site.archive = layer(Entry("../../escape", b"x"))
    assert "leads out" in site.failed(copy(".", "/x")).message
    site.archive = b""
    assert "not uploaded" in site.failed(copy("x", "/y")).message


def test_failures(site: Site) -> None:
    failed = site.failed("true", "echo out; echo why >&2; exit 3")
    assert failed.step == "2"
    assert "exit status 3" in failed.message
    assert "why" in failed.message
    if site.runtime == "crun":  # in gVisor the same takes half a minute
        assert "out of memory" in site.failed("tail /dev/zero", memory_mb=128).message
    else:
        assert "the device /opt/null" in site.failed("mknod /opt/null c 1 3").message
    assert site.failed(BuildStep("WHAT", ("x",))).step == "1"
    assert "wrong number" in site.failed(BuildStep("ENV", ("x",))).message
    assert "cannot be a user" in site.failed(BuildStep("USER", ("No User",))).message


def test_a_step_reaches_what_a_sandbox_reaches(site: Site) -> None:
    with Outside():
        closed = " || ".join(f"curl -s -m 2 http://{address}:8077/" for address in CLOSED)
        site.build(f"curl -sf -m 20 http://{PUBLIC}:8077/ > /dev/null && ! ({closed})")


def test_cache(site: Site) -> None:
    mark = f"echo {time.monotonic_ns()} > /mark"
    site.build(mark, "echo b > /b", BuildStep("ENV", ("A", "1")), "echo $A")
    site.build(mark, "echo b > /b", BuildStep("ENV", ("A", "1")), "echo $A")
    assert site.cached() == 4
    site.build(mark, "echo b > /b", BuildStep("ENV", ("A", "2")), "echo $A")
    assert site.cached() == 3, "all but the command, which could read it"
    site.build(mark, BuildStep("RUN", ("echo b > /b", "root"), force=True), "echo $A")
    assert site.cached() == 1
    site.build(mark, force=True)
    assert site.cached() == 0
    site.build(mark, tenant="another team")
    assert site.cached() == 0


def test_start_commands_are_inherited(site: Site) -> None:
    if site.runtime == "crun":
        pytest.skip("it starts at each create there, the same way")
    serve = "cd /tmp && exec python3 -m http.server 8000"
    first = site.build("true", start_cmd=serve, ready_cmd="curl -sf localhost:8000")
    second = site.build("echo more > /more", BuildStep("USER", ("other",)), base_build_id=first.build_id)
    assert (second.start_cmd, second.ready_cmd, second.start_user) == (serve, "curl -sf localhost:8000", "user")
    third = site.build(base_build_id=second.build_id, start_cmd="sleep 1000", ready_cmd="pgrep -x sleep")
    box = site.box(third)
    assert box.sh("cat /more; pgrep -x -u other sleep > /dev/null; pgrep -f '[h]ttp.server' || echo none").split() == [
        "more",
        "none",
    ]
    assert site.box(second).sh("curl -sf localhost:8000 > /dev/null; cat /more") == "more"


def test_large_additions_get_a_root_of_their_own(site: Site) -> None:
    built = site.build("head -c 70M /dev/urandom > /large; sha256sum /large > /sum")
    assert built.root_layers == 0
    assert site.box(built).sh("sha256sum -c /sum") == "/large: OK"
    assert site.build("echo small > /small").root_layers == 1


def test_time_limit_and_cancel(built_images: None) -> None:
    machine = start_machine(build_seconds=4.0)
    site = Site(machine, "gvisor")
    try:
        assert "within 4 s" in site.failed("sleep 100").message
        building = site.start(site.spec("sleep 100"))
        while not any("sleep" in line for line in site.lines):
            time.sleep(0.02)
        building.cancel()
        deadline = time.monotonic() + 30
        while machine.records() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert machine.records() == []
        assert list((machine.data_dir / "build/tmp").iterdir()) == []
        assert machine.node.builds() == []
        assert list((machine.data_dir / "layers/.tmp").iterdir()) == []
    finally:
        machine.stop()
        machine.remove()


def test_layers_go_when_nothing_needs_them(built_images: None) -> None:
    machine = start_machine(layer_cache_hours=0.0)
    site = Site(machine, "gvisor")
    try:
        before = set((machine.data_dir / "layers").iterdir()), set((machine.data_dir / "roots").iterdir())
        first = site.build("head -c 70M /dev/zero | tr '\\0' x > /large", "echo two > /two")
        second = site.build("echo three > /three", base_build_id=first.build_id)
        [root] = [path for path in (machine.data_dir / "roots").glob("*.erofs") if not path.is_symlink()]
        shared, used = (70 << 20) + root.stat().st_blocks * 512, site.used()
        assert shared < used < shared + (200 << 20), "one layer and one root file system for both, and two snapshots"
        box = site.box(second)
        machine.wait(machine.node.remove_build(first.build_id))
        assert shared < site.used() < used, "a snapshot is gone, all else is the other build's too"
        assert box.sh("cat /two /three").split() == ["two", "three"]
        box.kill()
        box = site.box(second)
        machine.wait(machine.node.remove_build(second.build_id))
        assert box.sh("cat /two /three; wc -c < /large").split() == ["two", "three", str(70 << 20)], (
            "who runs is not harmed"
        )
        assert (set((machine.data_dir / "layers").iterdir()), set((machine.data_dir / "roots").iterdir())) == before
        assert not (machine.data_dir / "snapshots" / second.build_id).exists()
        assert site.used() == 0
        kept = [json.loads(path.read_text())["build_id"] for path in (machine.data_dir / "images").glob("*/image.json")]
        assert sorted(kept) == ["base-crun", "base-gvisor"]
    finally:
        site.close()
        machine.stop()
        machine.remove()


def test_nothing_of_the_host_gets_into_a_layer(site: Site) -> None:
    """Links of the sandbox are the sandbox's, whoever reads its files: here to a directory and a file that only the host has."""
    secret = f"a secret of the host {time.monotonic_ns()}"
    folder = site.machine.data_dir / "of the host"
    folder.mkdir(exist_ok=True)
    (folder / "sudo").write_text(secret)
    built = site.build(
        f"ln -s '{folder}/sudo' /srv/file; ln -s '{folder}' /srv/folder",
        f"rm -rf /usr/libexec/sandpit; ln -s '{folder}' /usr/libexec/sandpit; touch /usr/bin/sudo",
    )
    for key in built.layers[1:]:
        fs = site.machine.data_dir / "layers" / key / "fs"
        found = subprocess.run(["grep", "-rlF", secret, str(fs)], capture_output=True, text=True, check=False)
        assert found.stdout == ""
    assert "No such file" in site.box(built).run("cat /srv/file")[1]
