"""The code-interpreter template's layer on top of `base`: data-science packages and Jupyter kernels.

What must be in it: code-interpreter 2.14. Everything is unpacked from wheels and Debian packages for the
image's own Python: no package's code runs here.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sandpit.lib import programs
from sandpit.provision.base import IMAGE_PYTHON, RELEASE, Progress, base_key, build_base
from sandpit.provision.debian import PackageCache
from sandpit.provision.javalanguage import KERNEL as JAVA_KERNEL
from sandpit.provision.javalanguage import add_java
from sandpit.provision.rlanguage import add_r
from sandpit.provision.wheels import InstallError, install_locked, requirements_dir
from sandpit.templates.layers.store import Layer, LayerStore, layer_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SITE = Path(f"usr/local/lib/python{IMAGE_PYTHON}/dist-packages")
_MAGIC_311 = (3495).to_bytes(2, "little") + b"\r\n"
"""Format number of Python 3.11's compiled files: any Python with the same one can compile for the image."""

# Only the shared libraries: the packages would bring a graphics driver and its compiler, 150 MB that nothing here uses.
_OPENCV_LIBRARIES = [
    "libgl1", "libglx0", "libglvnd0", "libx11-6", "libxext6", "libxcb1", "libxau6", "libxdmcp6", "libbsd0",
    "libmd0", "libsm6", "libice6", "libglib2.0-0",
]  # fmt: skip
_UNCOMPILED = r"/(tests?|debugpy/_vendored|plotly/validators/[^/]+/[^/]+)/"
"""Not compiled ahead: a third of all files, of which a program uses few (plotly's 14,000 validators) or none."""
_FONT = "Noto Sans CJK JP"
_FONT_FILES = ["./usr/share/fonts/opentype/noto/NotoSansCJK-*"]

START_COMMAND = (
    'program="/.sandpit/lib/ld.so --library-path /.sandpit/lib /.sandpit/bin/python3 -I -S /.sandpit/run.py"; '
    "while :; do $program interpreter; sleep 1; done"
)
"""Whatever ends the interpreter, it comes back (code-interpreter 2.1). The loop does not have the service's
command line in its own: who looks for the service by that (`pkill -f`) does not meet the loop."""
_START_SCRIPT = f"""\
#!/bin/sh
[ "$(id -u)" = 0 ] || exec sudo -- "$0" "$@"
{START_COMMAND}
"""

_KERNELS = {
    "python3": {
        "argv": ["/usr/bin/python3", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "metadata": {"debugger": True},
    },
    "bash": {
        "argv": ["/usr/bin/python3", "-m", "bash_kernel", "-f", "{connection_file}"],
        "display_name": "Bash",
        "language": "bash",
        "env": {"PS1": "$"},
    },
    # JavaScript and TypeScript. Its standard library is Node's too, here also by the names that Node's own programs use.
    "deno": {
        "argv": ["/usr/local/bin/deno", "jupyter", "--kernel", "--conn", "{connection_file}"],
        "display_name": "Deno",
        "language": "typescript",
        "env": {"NO_COLOR": "1", "DENO_NO_UPDATE_CHECK": "1", "DENO_UNSTABLE_BARE_NODE_BUILTINS": "1"},
    },
    "java": JAVA_KERNEL,
}


def build_interpreter(store: LayerStore, data_dir: Path, progress: Progress) -> Layer:
    """The code-interpreter layer, made if its recipe has changed.

    `base` may still be in the making: it is only named here. Raises: DebianError, InstallError, LayerError.
    """
    key = interpreter_key()
    if layer := store.find(key):
        return layer

    def produce(fs: Path) -> None:
        _add_packages(fs, data_dir, progress)
        _add_kernels(fs)
        _add_start_scripts(fs)
        progress("interpreter: unpacking fonts and libraries")
        debian = PackageCache(data_dir / "cache/apt-image", RELEASE)
        debian.extract(_OPENCV_LIBRARIES, fs, only=["./usr/lib/*.so*"])
        debian.extract(["fonts-noto-cjk"], fs, only=_FONT_FILES)
        _default_font(fs / _SITE)
        progress("interpreter: unpacking R and Java")
        add_r(fs, debian)
        add_java(fs, debian)
        progress("interpreter: compiling")
        _compile(fs / _SITE, lambda: build_base(store, data_dir, progress))
        _set_modes(fs)

    return store.ensure(key, parent=base_key(), step="interpreter", produce=produce)


def interpreter_key() -> str:
    """The key of the code-interpreter layer: changes with everything in its recipe, and with the base layer."""
    modules = [Path(__file__).with_name(f"{name}.py") for name in ("interpreter", "rlanguage", "javalanguage")]
    recipe = [file.read_text() for file in (*modules, requirements_dir() / "interpreter-image.lock")]
    return layer_key(base_key(), "interpreter", *recipe)


def _add_packages(fs: Path, data_dir: Path, progress: Progress) -> None:
    progress("interpreter: installing packages")
    local = fs / "usr/local"
    site = fs / _SITE
    site.parent.mkdir(parents=True)
    lock = requirements_dir() / "interpreter-image.lock"
    install_locked(lock, site, cache=data_dir / "cache/uv", image_python=IMAGE_PYTHON)
    for data in ("bin", "share", "etc", "include"):  # what a wheel places relative to the installation's prefix
        if (site / data).exists():
            shutil.move(site / data, local / data)
    shutil.rmtree(local / "share/man", ignore_errors=True)
    for script in (local / "bin").iterdir():
        _point_at_image_python(script)


def _point_at_image_python(script: Path) -> None:
    first, newline, rest = script.read_bytes().partition(b"\n")
    if not re.match(rb"#!.*python", first):
        return
    script.unlink()  # it may be a link into the cache
    script.write_bytes(b"#!/usr/bin/python3" + newline + rest)
    script.chmod(0o755)


def _add_kernels(fs: Path) -> None:
    for name, spec in _KERNELS.items():
        folder = fs / "usr/local/share/jupyter/kernels" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "kernel.json").unlink(missing_ok=True)
        (folder / "kernel.json").write_text(json.dumps(spec, indent=1) + "\n")


def _add_start_scripts(fs: Path) -> None:
    """The service's start command under the names that templates of 2024 call it by (legacy-protocol 5.2)."""
    for home, owner in (("root", 0), ("home/user", 1000)):
        script = fs / home / ".jupyter/start-up.sh"
        script.parent.mkdir(parents=True)
        script.write_text(_START_SCRIPT)
        script.chmod(0o755)
        for path in (fs / home, script.parent, script):
            os.chown(path, owner, owner)


def _default_font(site: Path) -> None:
    """Make charts show Chinese, Japanese and Korean text: the font goes first in matplotlib's defaults."""
    defaults = site / "matplotlib/mpl-data/matplotlibrc"
    text = defaults.read_text()
    changed = re.sub(r"^#\s*font\.family:.*$", "font.family: sans-serif", text, flags=re.MULTILINE)
    changed = re.sub(r"^#\s*font\.sans-serif:\s*(.*)$", rf"font.sans-serif: {_FONT}, \1", changed, flags=re.MULTILINE)
    if changed.count(_FONT) != 1:
        raise InstallError(
            f"{defaults.name} of this matplotlib release has no line for the default font; adapt {__name__}"
        )
    defaults.unlink()
    defaults.write_text(changed)


def _compile(site: Path, base: Callable[[], Layer]) -> None:
    """Compile in two processes, but for tests, which nobody imports. Some packages ship files that do not compile."""
    arguments = ["-I", "-m", "compileall", "-q", "-j2", "-x", _UNCOMPILED, "-p", f"/{_SITE}", "-s"]
    if importlib.util.MAGIC_NUMBER == _MAGIC_311:
        programs.call(sys.executable, *arguments, str(site), str(site))
        return
    # Debian's Python, on the base layer, in a mount namespace that ends with the command; no package's code runs
    script = (
        'mount --bind "$2" "$1/mnt" && mount --rbind /dev "$1/dev" && root=$1 && shift 2 && exec chroot "$root" "$@"'
    )
    command = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        script,
        "sh",
        str(base().fs),
        str(site),
        "/usr/bin/python3",
        *arguments,
        "/mnt",
        "/mnt",
    ]
    programs.call(*command)
    if not any(site.glob("numpy/__pycache__/*.pyc")):
        raise InstallError("compiling the packages with the image's own Python failed; is the base layer intact?")


def _set_modes(fs: Path) -> None:
    """An upper layer's directories replace the lower modes: keep what `base` promises (writable below /usr/local, and homes)."""
    homes = {("root",): 0o700, ("home", "user"): 0o777}
    for folder in _folders(fs):
        below = folder.relative_to(fs).parts
        folder.chmod(0o777 if below[:2] == ("usr", "local") else homes.get(below, 0o755))


def _folders(fs: Path) -> Iterator[Path]:
    for folder, _, _ in os.walk(fs):
        yield Path(folder)
