"""Buckets as directories, by s3fs and by rclone (docs/buckets.md), with a real S3 server elsewhere. On gVisor alone: crun has no FUSE."""

from __future__ import annotations

import random
import subprocess
import sys
from functools import cache
from typing import TYPE_CHECKING

import pytest
from tests.cli.user import until
from tests.machines import REPOSITORY, cache_dir
from tests.sdk.s3server import S3Server
from tests.sdk.test_documentation import problem

from sandpit import Sandbox
from sandpit.provision.base import RELEASE
from sandpit.provision.debian import PackageCache

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.live import Live
    from tests.sdk.conftest import Team

pytestmark = [pytest.mark.usefixtures("tidy"), pytest.mark.timeout(240)]
SIZES = (0, 1, 4095, 4097, 300_001, 20_000_003)
SMALL = 30
PROGRAM = f"""
import os, random, sys

def content(size):
    return random.Random(size).randbytes(size)

what, folder = sys.argv[1:]
files = {{str(size): content(size) for size in {SIZES}}} | {{f'small-{{number}}': b'%d' % number for number in range({SMALL})}}
for name, data in files.items():
    path = os.path.join(folder, name)
    if what == 'write':
        open(path, 'wb').write(data)
    else:
        assert open(path, 'rb').read() == data, name
assert sorted(os.listdir(folder)) == sorted(files)
"""
RCLONE = """\
[store]
type = s3
provider = Other
endpoint = {url}
access_key_id = {key}
secret_access_key = {secret}
"""


def content(size: int) -> bytes:
    """Of that length, and always the same."""
    return random.Random(size).randbytes(size)


def sh(sandbox: Sandbox, command: str) -> str:
    """The output of a command that must succeed."""
    return str(sandbox.commands.run(command, timeout=50).stdout).strip()


TEMPLATE = "my-bucket-sandbox"
_S3FS = ["s3fs", "libfuse2", "fuse3", "libfuse3-3", "libxml2", "libicu72", "mailcap"]
_DOCKERFILE = "FROM e2bdev/base\nCOPY root /\n"
"""As in docs/buckets.md, but that a test needs no mirror in reach of sandboxes, and no time for an installation."""


@cache
def _packages() -> PackageCache:
    return PackageCache(cache_dir() / "cache/apt" / RELEASE, RELEASE)


def unpacked(packages: list[str], folder: Path, *, only: tuple[str, ...] = ()) -> Path:
    """The files of Debian packages."""
    folder.mkdir()
    _packages().extract(packages, folder, only=only)
    return folder


@pytest.fixture(scope="module")
def s3(built_images: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server elsewhere, with a bucket."""
    with S3Server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="module")
def bucket_template(live: Live, key: str, s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A template with s3fs, whose start command mounts the bucket at /bucket."""
    folder = tmp_path_factory.mktemp("template")
    root = unpacked(_S3FS, folder / "root")
    (root / "bucket").mkdir()
    (root / "etc/passwd-s3fs").touch(0o600)
    (root / "etc/passwd-s3fs").write_text(f"{s3.key}:{s3.secret}\n")
    (folder / "sandpit.Dockerfile").write_text(_DOCKERFILE)
    mount = f"sudo s3fs {s3.bucket} /bucket -s -o url={s3.url},use_path_request_style,allow_other,uid=1000,gid=1000,umask=022"
    command = ["template", "create", TEMPLATE, "-p", str(folder), "-c", mount, "--ready-cmd", "mountpoint -q /bucket"]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "sandpit.cli", *command], env={**live.environment, **live.clients, "E2B_API_KEY": key},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return TEMPLATE


@pytest.fixture(scope="module")
def rclone(built_images: None, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Debian's program. It is not in the template: together with s3fs it would need a root file system of its own, which takes seconds."""
    folder = unpacked(["rclone"], tmp_path_factory.mktemp("rclone") / "root", only=("./usr/bin/rclone",))
    return (folder / "usr/bin/rclone").read_bytes()


@pytest.fixture(scope="module")
def sandbox_id(team: Team, bucket_template: str) -> str:
    """One for all tests."""
    return team.create(bucket_template)


@pytest.fixture
def sandbox(sandbox_id: str) -> Iterator[Sandbox]:
    """Its template's start command has mounted the bucket at /bucket."""
    with Sandbox.reconnect(sandbox_id) as sandbox:
        sandbox.files.write("/tmp/program.py", PROGRAM)
        yield sandbox


def in_bucket(s3: S3Server, folder: str) -> dict[str, bytes | None]:
    return {name.removeprefix(f"{folder}/"): s3.content(name) for name in s3.names(f"{folder}/")}


def directory(sandbox: Sandbox, s3: S3Server, path: str, wait: str = "") -> None:
    """What one does with files, in a new directory of the bucket, seen from both sides. After `wait`, if there is such a command,
    all uploads are complete; else they come by and by."""
    folder = path.rpartition("/")[2]

    def expect(files: dict[str, bytes]) -> None:
        if wait:
            sh(sandbox, wait)
            assert in_bucket(s3, folder) == files
        else:
            until(lambda: in_bucket(s3, folder) == files)

    sh(sandbox, f"mkdir {path} && python3 /tmp/program.py write {path}")
    expect({str(size): content(size) for size in SIZES} | {f"small-{n}": str(n).encode() for n in range(SMALL)})
    sh(sandbox, f"python3 /tmp/program.py check {path}")
    changes = "mkdir -p a/b && mv 4097 a/moved && cp a/moved a/b/copied && printf more >> 1 && truncate -s 5 300001"
    sh(sandbox, f"cd {path} && {changes} && rm 4095 20000003 small-*")
    changed = {"0": b"", "1": content(1) + b"more", "300001": content(300_001)[:5]}
    expect(changed | {"a/moved": content(4097), "a/b/copied": content(4097)})
    sh(sandbox, f"mv {path}/a {path}/c")
    expect(changed | {"c/moved": content(4097), "c/b/copied": content(4097)})
    sh(sandbox, f"rm -r {path}")
    expect({})


def test_s3fs(sandbox: Sandbox, s3: S3Server) -> None:
    """One request at a time (`-s`): what was closed has been uploaded when the next call is answered."""
    directory(sandbox, s3, "/bucket/s3fs", wait="stat /bucket")
    s3.put("outside/file", content(5_000_000))
    assert sandbox.files.read_bytes("/bucket/outside/file") == content(5_000_000)
    sandbox.files.write("/bucket/inside", "by the API")
    assert "inside" in [entry.name for entry in sandbox.files.list("/bucket")]
    assert s3.content("inside") == b"by the API"


def test_rclone(sandbox: Sandbox, s3: S3Server, rclone: bytes) -> None:
    sandbox.filesystem.make_dir("/root/.config/rclone")
    sandbox.filesystem.write("/root/.config/rclone/rclone.conf", RCLONE.format(**vars(s3)))
    sandbox.filesystem.write_bytes("/usr/bin/rclone", rclone)
    flags = "--daemon --daemon-wait 0 --allow-other --uid 1000 --gid 1000 --vfs-cache-mode writes --vfs-write-back 0s"
    sh(
        sandbox,
        f"sudo chmod +x /usr/bin/rclone && mkdir ~/store && sudo rclone mount store:{s3.bucket} ~/store {flags}",
    )
    sh(sandbox, "until mountpoint -q ~/store; do sleep 0.1; done")
    directory(sandbox, s3, "/home/user/store/rclone")
    sh(sandbox, "sudo fusermount3 -u ~/store && sudo pkill rclone")


def test_pause_and_fork(team: Team, s3: S3Server, bucket_template: str) -> None:
    """Whatever is under way: an upload, a file that is open, a mount."""
    later = "exec 3>> /bucket/open; echo first >&3; until [ -e /tmp/go ]; do sleep 0.1; done; echo second >&3; exec 3>&-; touch /tmp/gone"
    with Sandbox(bucket_template) as sandbox:
        sandbox.files.write("/tmp/program.py", PROGRAM)
        sandbox.commands.run(later, background=True)
        sh(sandbox, "mkdir /bucket/pause && python3 /tmp/program.py write /bucket/pause")
        sandbox.pause()
        sandbox.resume()
        sh(sandbox, "touch /tmp/go && python3 /tmp/program.py check /bucket/pause")
        assert in_bucket(s3, "pause")["20000003"] == content(20_000_003)
        sh(sandbox, "until [ -e /tmp/gone ]; do sleep 0.1; done; stat /bucket")
        assert s3.content("open") == b"first\nsecond\n"
        [copy] = sandbox.fork()
        with copy:
            sh(copy, "echo copy > /bucket/copy && stat /bucket")
            assert s3.content("copy") == b"copy\n"
            copy.kill()
        assert sh(sandbox, "cat /bucket/copy && echo original > /bucket/original && stat /bucket > /dev/null") == "copy"
        assert s3.content("original") == b"original\n"
        sandbox.kill()


def test_the_example(team: Team, s3: S3Server, bucket_template: str, tmp_path: Path) -> None:
    example = (REPOSITORY / "examples/docs_2024/bucket.py").read_text()
    keys = {"AWS_ACCESS_KEY_ID": s3.key, "AWS_SECRET_ACCESS_KEY": s3.secret}
    assert problem("bucket", example, team, tmp_path, S3_URL=s3.url, S3_BUCKET=s3.bucket, **keys) is None
    until(lambda: s3.content("hello.txt") == b"Hello from a sandbox")
